"""OpenVINO GenAI in our words: tokenizer, pipeline, conversion. The only user of openvino_genai."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai

from outpace.engines.openvino_config import SMALL_WEIGHTS_BYTES, OpenVinoConfig, kept_tokens
from outpace.engines.openvino_joined import join_products
from outpace.engines.openvino_rows import merge_groups
from outpace.engines.openvino_wire import Piece, Sampling

VERSION = str(openvino_genai.__version__)
MODEL_FILE = "openvino_model.xml"
BLOCK_TOKENS = 32
# Blocks beyond what the sequences need: a fork or a preemption must not find none.
_SPARE_BLOCKS = 8
# Enough to see a grammar at work, not only compiled.
_TRIAL_TOKENS = 4
# Tokens that end a turn in chat templates; a GGUF names only one end.
_TURN_ENDS = (
    b"<|im_end|>",
    b"<|eot_id|>",
    b"<|end|>",
    b"<end_of_turn>",
    b"<|endoftext|>",
    b"<|end_of_text|>",
)
_MARK = re.compile(rb"^(<[^>]*>|\[[^\]]*\])$")
# Where in its sources the library found a fault.
_SOURCE = re.compile(r"^(\[[\d:]+\] )?\S+\.(cc|cpp|hpp|h):\d+: ")
_ENDS = {
    openvino_genai.GenerationFinishReason.STOP: "stop",
    openvino_genai.GenerationFinishReason.LENGTH: "length",
}
_RUNNING = openvino_genai.GenerationStatus.RUNNING


def convert(weights: Path, folder: Path) -> None:
    """Write OpenVINO's model and tokenizer files for a GGUF into `folder`. Raises RuntimeError."""
    # The library writes beside the file that it reads.
    link = folder / "weights.gguf"
    link.symlink_to(weights)
    try:
        openvino_genai.Tokenizer(link, enable_save_ov_model=True)
        openvino_genai.ContinuousBatchingPipeline(
            link, openvino_genai.SchedulerConfig(), "CPU", {"enable_save_ov_model": True}
        )
    finally:
        link.unlink()
    lay_out(folder / MODEL_FILE)


def lay_out(path: Path) -> bool:
    """Rewrite a converted model as the engine computes it faster, every weight the same; False: it stays as it is."""
    model = openvino.Core().read_model(path)
    is_changed = merge_groups(model)
    # Where products take longer, a node less is nothing, and files this large are not written twice for it.
    if weights_bytes(path.parent) <= SMALL_WEIGHTS_BYTES:
        is_changed |= join_products(model) > 0
    if not is_changed:
        return False
    model.validate_nodes_and_infer_types()
    # The file that is read from is mapped: it is replaced, never written over.
    fresh = path.with_name(f"fresh_{path.name}")
    openvino.save_model(model, fresh, compress_to_fp16=False)
    for suffix in (".bin", ".xml"):
        fresh.with_suffix(suffix).replace(path.with_suffix(suffix))
    return True


def weights_bytes(folder: Path) -> int:
    """Of a converted model."""
    return (folder / MODEL_FILE).with_suffix(".bin").stat().st_size


def end_of_text(folder: Path) -> int:
    """The token that ends an answer."""
    return int(openvino_genai.Tokenizer(folder).get_eos_token_id())


class Tokenizer:
    """Text to tokens and back; raises ValueError for what cannot be done."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = openvino_genai.Tokenizer(folder)
        vocabulary = self._tokenizer.get_vocab()
        self.pieces: list[bytes] = [b""] * (max(vocabulary.values()) + 1)
        for piece, token in vocabulary.items():
            self.pieces[token] = piece
        self.longest_piece_bytes = max(len(piece) for piece in self.pieces)
        self.turn_ends = tuple(vocabulary[name] for name in _TURN_ENDS if name in vocabulary)
        self.first_token: int = self._tokenizer.get_bos_token_id()
        self._hide_marks()

    def _hide_marks(self) -> None:
        """Control tokens have no text in an answer."""
        candidates = [token for token, piece in enumerate(self.pieces) if _MARK.match(piece)]
        texts = self._tokenizer.decode([[token] for token in candidates]) if candidates else []
        for token, text in zip(candidates, texts, strict=True):
            if not text:
                self.pieces[token] = b""

    def encode(self, text: str, *, adds_first: bool) -> "np.ndarray[Any, np.dtype[np.int64]]":
        """The tokens of a text."""
        encoded = self._tokenizer.encode(text, add_special_tokens=adds_first)
        return np.array(encoded.input_ids.data[0], dtype=np.int64)

    def rendered(self, messages: Sequence[dict[str, Any]], extra: dict[str, Any]) -> str:
        """A conversation as the model's template writes it."""
        try:
            return str(self._tokenizer.apply_chat_template(list(messages), True, extra_context=extra or None))
        except RuntimeError as error:
            raise ValueError(_told(error)) from error


class GrammarTrial:
    """A pipeline of no size that meets JSON schemas first."""

    def __init__(self, folder: Path, tiny_model: Callable[[int], Path]) -> None:
        self._tokenizer = openvino_genai.Tokenizer(folder)
        model = tiny_model(max(self._tokenizer.get_vocab().values()) + 1)
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.num_kv_blocks = _SPARE_BLOCKS
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(model, self._tokenizer, scheduler, "CPU")

    def refusal(self, schema: str) -> str:
        """What the library says against a schema; empty when it can be followed."""
        sampling = Sampling(max_tokens=_TRIAL_TOKENS, seed=0, temperature=0.0, json_schema=schema)
        settings = _generation(sampling, self._tokenizer.get_eos_token_id())
        prompt = openvino.Tensor(np.zeros((1, 1), dtype=np.int64))
        try:
            # Unlike a step, this drops the request when it fails.
            self._pipeline.generate([prompt], [settings])
        except RuntimeError as error:
            return _told(error)
        return ""


class Lane:
    """The library's pipeline: sequences in the engine, advanced one step at a time."""

    def __init__(self, config: OpenVinoConfig, folder: Path) -> None:
        self._tokenizer = openvino_genai.Tokenizer(folder)
        self.eos: int = self._tokenizer.get_eos_token_id()
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            folder, self._tokenizer, _scheduler(config), "CPU", **properties(config)
        )
        self._handles: dict[int, Any] = {}
        self._with_logprobs: set[int] = set()
        self._dropped: set[int] = set()

    @property
    def is_idle(self) -> bool:
        """Nothing is left to compute or to clean up."""
        return not self._handles and not self._pipeline.has_non_finished_requests()

    @property
    def kv_used_fraction(self) -> float:
        """Share of the key and value memory that the last step used."""
        return float(self._pipeline.get_metrics().cache_usage) / 100.0

    def add(self, sequence: int, tokens: "np.ndarray[Any, np.dtype[np.int64]]", sampling: Sampling) -> None:
        """Begin a sequence. Raises RuntimeError for what the library refuses."""
        self._handles[sequence] = self._pipeline.add_request(
            sequence, openvino.Tensor(tokens.reshape(1, -1).copy()), _generation(sampling, self.eos)
        )
        if sampling.wants_logprobs:
            self._with_logprobs.add(sequence)

    def drop(self, sequence: int) -> None:
        """Give a sequence up; the next step frees its memory."""
        if sequence in self._handles:
            self._handles[sequence].cancel()
            self._dropped.add(sequence)

    def step(self) -> list[Piece]:
        """Advance every sequence; what each got. Raises RuntimeError."""
        self._pipeline.step()
        return [piece for sequence in list(self._handles) if (piece := self._read(sequence))]

    def _read(self, sequence: int) -> Piece | None:
        if sequence in self._dropped:
            self._forget(sequence)
            return Piece(sequence, [], end="dropped")
        handle = self._handles[sequence]
        tokens: list[int] = []
        logprobs: list[float] = []
        end = None
        while handle.can_read():
            for output in handle.read().values():
                tokens += output.generated_ids
                if sequence in self._with_logprobs:
                    logprobs += output.generated_log_probs
                end = _ENDS.get(output.finish_reason)
        if handle.get_status() != _RUNNING:
            self._forget(sequence)
            end = end or "the engine's memory for keys and values is too small for this request"
        return Piece(sequence, tokens, logprobs, end) if tokens or end else None

    def _forget(self, sequence: int) -> None:
        del self._handles[sequence]
        self._with_logprobs.discard(sequence)
        self._dropped.discard(sequence)


def _scheduler(config: OpenVinoConfig) -> Any:
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.max_num_seqs = config.parallel
    scheduler.max_num_batched_tokens = max(config.step_tokens, config.parallel)
    scheduler.enable_prefix_caching = config.prefix_caching
    scheduler.dynamic_split_fuse = True
    scheduler.num_kv_blocks = -(-kept_tokens(config) // BLOCK_TOKENS) + config.parallel + _SPARE_BLOCKS
    return scheduler


def properties(config: OpenVinoConfig) -> dict[str, Any]:
    """What the pipeline and its graph are compiled with."""
    given: dict[str, Any] = {
        "KV_CACHE_PRECISION": config.kv_cache,
        "INFERENCE_NUM_THREADS": config.threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    if config.compute != "auto":
        given["INFERENCE_PRECISION_HINT"] = config.compute
    if config.activation_group >= 0:
        given["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = config.activation_group
    return given


def _generation(sampling: Sampling, eos: int) -> Any:
    settings = openvino_genai.GenerationConfig()
    settings.max_new_tokens = sampling.max_tokens
    settings.min_new_tokens = sampling.min_tokens
    settings.ignore_eos = sampling.ignore_eos
    settings.stop_token_ids = set(sampling.stop_token_ids)
    settings.set_eos_token_id(eos)
    settings.rng_seed = sampling.seed
    settings.repetition_penalty = sampling.repetition_penalty
    settings.presence_penalty = sampling.presence_penalty
    settings.frequency_penalty = sampling.frequency_penalty
    settings.logprobs = int(sampling.wants_logprobs)
    if sampling.temperature:
        settings.do_sample = True
        settings.temperature = sampling.temperature
        settings.top_p = sampling.top_p
        settings.min_p = sampling.min_p
        if sampling.top_k:
            settings.top_k = sampling.top_k
    if sampling.json_schema is not None:
        settings.structured_output_config = openvino_genai.StructuredOutputConfig(
            json_schema=sampling.json_schema
        )
    return settings


def _told(error: RuntimeError) -> str:
    """What the library says, without its source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [_SOURCE.sub("", line) for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (told or lines or ["refused"])[0]
