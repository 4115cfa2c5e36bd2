"""llama.cpp's process: its own HTTP server, in `xllamacpp`, on a private Unix socket. The only user of xllamacpp.

Run as `python -m outpace.engines.llamacpp_child --config JSON`, the token in the environment. Stays until SIGTERM. When
loading fails the last line on stderr is one JSON object with the reason, and the exit code is 1.
"""

import contextlib
import os
import re
import signal
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import xllamacpp

from outpace.engines import child, memory_ahead
from outpace.engines.llamacpp_config import LlamaConfig
from outpace.engines.pagecache import read_in
from outpace.values.clock import sleep_blocking

_KV_TYPES = {
    "f32": xllamacpp.ggml_type.GGML_TYPE_F32,
    "f16": xllamacpp.ggml_type.GGML_TYPE_F16,
    "bf16": xllamacpp.ggml_type.GGML_TYPE_BF16,
    "q8_0": xllamacpp.ggml_type.GGML_TYPE_Q8_0,
    "q5_1": xllamacpp.ggml_type.GGML_TYPE_Q5_1,
    "q4_0": xllamacpp.ggml_type.GGML_TYPE_Q4_0,
}
_FLASH = {
    "auto": xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
_SPECULATIVE = xllamacpp.common_speculative_type
_SPECULATION = {
    "ngram_simple": _SPECULATIVE.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE,
    "ngram_map_k": _SPECULATIVE.COMMON_SPECULATIVE_TYPE_NGRAM_MAP_K,
    "ngram_map_k4v": _SPECULATIVE.COMMON_SPECULATIVE_TYPE_NGRAM_MAP_K4V,
    "ngram_mod": _SPECULATIVE.COMMON_SPECULATIVE_TYPE_NGRAM_MOD,
    "ngram_cache": _SPECULATIVE.COMMON_SPECULATIVE_TYPE_NGRAM_CACHE,
    "draft": _SPECULATIVE.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE,
}
# Warnings and errors; above that llama.cpp writes several lines per request.
_VERBOSITY = 2
# Each open connection holds one of llama.cpp's HTTP threads, an idle one too: without spare threads a health
# probe would wait behind streams.
_SPARE_HTTP_THREADS = 32
# The last thing that llama.cpp says when it gives up.
_LOG_END = b"exiting due to"
_LOG_POLLS = 50
_LOG_POLL_S = 0.02
_LOG_ERROR = re.compile(r"^[\d.]+ E (.*)$")
_LOG_SOURCE = re.compile(r"^\w+(?:\s\s*\w+)*:\s+")


def main() -> None:
    """Serve what the command line says."""
    serve(child.read_config(LlamaConfig))


def serve(config: LlamaConfig) -> None:
    """Load the model, serve until SIGTERM or SIGINT."""
    signals = {signal.SIGTERM, signal.SIGINT}
    # Blocked before llama.cpp starts its threads, which inherit the mask: only `sigwait` below sees them.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    _require_weights(config.model_path)
    child.clear_socket(config.socket_path)
    with contextlib.suppress(OSError):
        # In one go from the disk; llama.cpp's mapping would fetch page by page.
        read_in(Path(config.model_path))
    child.phases.ended("weights")
    server = _start(config, child.take_token())
    memory_ahead.let_go()
    child.phases.ended("load")
    child.tell_listening(server.listening_address)
    signal.sigwait(signals)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(config.socket_path)
    # Running requests were drained before SIGTERM; tearing the server down could wait for a stuck one for ever.
    os._exit(0)


def _start(config: LlamaConfig, token: str) -> Any:
    """The listening server. llama.cpp's words while loading are kept, so that a failure can be told in one line."""
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            server = xllamacpp.Server(parameters(config, token))
        except Exception as error:  # noqa: BLE001  # a door: whatever the binding raises becomes the reason
            said = _last_words(log)
            # llama.cpp's log thread may go on: our line must stay the last one.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            os.write(stderr, said)
            reason = (_reason(said) or str(error)).replace(config.model_path, "the file")
            name = Path(config.model_path).name
            child.fail("load_failed", f"llama.cpp could not load {name}: {reason}", stderr)
        os.dup2(stderr, 2)
        os.close(stderr)
        log.seek(0)
        os.write(2, log.read())
    return server


def parameters(config: LlamaConfig, token: str) -> Any:
    """llama.cpp's parameters for a configuration."""
    p = xllamacpp.CommonParams()
    p.model.path = config.model_path
    p.model_alias = [config.alias]
    p.hostnames = [config.socket_path]
    p.port = 0
    p.api_keys = [token] if token else []
    p.n_parallel = config.parallel
    # llama.cpp divides the total by the number of sequences.
    p.n_ctx = config.context_tokens * config.parallel
    p.n_threads_http = 2 * config.parallel + _SPARE_HTTP_THREADS
    p.cpuparams.n_threads = config.threads
    p.cpuparams_batch.n_threads = config.threads
    p.cache_type_k = _KV_TYPES[config.cache_type_k]
    p.cache_type_v = _KV_TYPES[config.cache_type_v]
    p.flash_attn_type = _FLASH[config.flash_attention]
    p.cache_prompt = config.prefix_caching
    p.cache_ram_mib = config.cache_ram_mib if config.prefix_caching else 0
    _apply_fixed(p)
    guessed = 0
    if config.speculation != "off" and not config.embeddings:
        guessed = _apply_speculation(p.speculative, config)
    # llama.cpp aborts when the next token of every sequence, and all that is guessed behind it, do not fit in.
    p.n_batch = max(config.batch_tokens, config.parallel * (1 + guessed))
    p.n_ubatch = min(config.micro_batch_tokens, p.n_batch)
    if config.embeddings:
        _apply_embeddings(p, config)
    return p


def _apply_fixed(p: Any) -> None:
    p.use_jinja = True
    p.cont_batching = True
    # An assistant's last word is history, not the beginning of the answer.
    p.prefill_assistant = False
    p.endpoint_metrics = True
    p.endpoint_slots = True
    p.ui = False
    # The probe's token warms the model up, and clearing the KV cache twice takes long.
    p.warmup = False
    p.offline = True
    p.cors_origins = ""
    # Comments would end the readers' fast path; the gateway keeps its clients' connections alive.
    p.sse_ping_interval = -1
    # The planner fits the model to memory; a silent smaller context would break its promise.
    p.fit_params = False
    p.verbosity = _VERBOSITY


def _apply_speculation(speculative: Any, config: LlamaConfig) -> int:
    """The most tokens that are guessed at a time."""
    speculative.types = [_SPECULATION[config.speculation]]
    most, match = config.speculation_tokens, config.speculation_match_tokens
    if config.speculation == "draft":
        speculative.draft.mparams.path = config.draft_path
        speculative.draft.cpuparams.n_threads = config.threads
        speculative.draft.cpuparams_batch.n_threads = config.threads
        speculative.draft.n_max = most or speculative.draft.n_max
        return int(speculative.draft.n_max)
    if config.speculation == "ngram_mod":
        kind = speculative.ngram_mod
        kind.n_max = most or kind.n_max
        kind.n_min = min(kind.n_min, kind.n_max)
        kind.n_match = match or kind.n_match
        return int(kind.n_max)
    if config.speculation == "ngram_cache":
        # Guesses as many as a draft model would.
        speculative.draft.n_max = most or speculative.draft.n_max
        return int(speculative.draft.n_max)
    kind = getattr(speculative, config.speculation)
    kind.size_m = most or kind.size_m
    kind.size_n = match or kind.size_n
    return int(kind.size_m)


def _apply_embeddings(p: Any, config: LlamaConfig) -> None:
    p.embedding = True
    p.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    # An input must fit in one physical batch.
    p.n_batch = p.n_ubatch = config.context_tokens


def _require_weights(path: str) -> None:
    try:
        with Path(path).open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        child.fail("weights_missing", f"{Path(path).name} cannot be read: {error.strerror}")
    if magic != b"GGUF":
        child.fail("weights_invalid", f"{Path(path).name} is no GGUF file; pull the model again")


def _last_words(log: BinaryIO) -> bytes:
    """What llama.cpp wrote; its log thread is given a moment to end."""
    for _ in range(_LOG_POLLS):
        log.seek(0)
        said = log.read()
        if _LOG_END in said:
            break
        sleep_blocking(_LOG_POLL_S)
    return said


def _reason(said: bytes) -> str:
    lines = said.decode(errors="replace").splitlines()
    errors = [match[1] for line in lines if (match := _LOG_ERROR.match(line))]
    return "; ".join(dict.fromkeys(_LOG_SOURCE.sub("", error) for error in errors[:3]))


if __name__ == "__main__":
    main()
