"""TensorRT-LLM on NVIDIA GPUs: `trtllm-serve` behind our front, its quirks hidden.

Written to the published protocol and command line of TensorRT-LLM 1.2; it was not run by us
(docs/reference/compatibility.md).
- `tool_choice` `required` or a name is forced by grammar; `auto` needs the setting `tool_parser`.
- Running usage is not told: what is given up half-way is billed by the deltas that were sent.
- Refused: `echo`, `suffix`, `best_of`, `return_token_ids`, `reasoning_effort`, `verbosity`, parts that are no text.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from outpace.engines import child
from outpace.engines.front_config import FrontConfig
from outpace.engines.parameters import settings_of
from outpace.engines.protocol import Capabilities, Load
from outpace.engines.served import CHAT, TEXT, ServedEngine
from outpace.engines.served_body import Quirks
from outpace.values.deployment import Launch, LaunchOrder, Needs, Task
from outpace.values.errors import EngineFailed, InvalidInput

Count = Annotated[int, Meta(ge=1, le=1 << 20)]
_ORDERED = frozenset({"parallel", "context_tokens", "threads"})
_PARAMETERS: dict[Task, frozenset[str]] = {"chat": TEXT | CHAT, "completions": TEXT | {"prompt"}}


class TensorRtLlmSettings(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """Engine settings of a TensorRT-LLM deployment, besides `parallel`, `context_tokens` and `threads`."""

    tensor_parallel: Count = 1
    pipeline_parallel: Count = 1
    expert_parallel: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    # Tokens of one step over all sequences; 0: TensorRT-LLM's choice.
    batch_tokens: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    # Share of the memory that weights leave free, for the KV cache.
    kv_memory_fraction: Annotated[float, Meta(gt=0, le=1)] = 0.9
    # A YAML file of LLM API options (quantization of the KV cache, speculation, CUDA graphs).
    options_file: str = ""
    tool_parser: str = ""
    reasoning_parser: str = ""


class _Iteration(msgspec.Struct, rename="camel"):
    """One entry of /metrics."""

    num_active_requests: int = 0
    num_queued_requests: int = 0
    kv_cache_stats: dict[str, float] | None = None


class TensorRtLlm(ServedEngine):
    """Adapter of `trtllm-serve`."""

    name = "tensorrt-llm"
    parameters = _PARAMETERS
    capabilities = Capabilities(
        tasks=frozenset({"chat", "completions"}), parameters=_PARAMETERS, tested_with="its protocol"
    )
    quirks = Quirks(has_running_usage=False)

    def launch(self, order: LaunchOrder) -> Launch:
        settings = settings_of(order.engine_settings, TensorRtLlmSettings, self.name, _ORDERED)
        if order.artifact_path is None:
            raise InvalidInput(
                "model", f"{order.model} has no weights; TensorRT-LLM needs a Hugging Face folder"
            )
        path = child.socket_path(order)
        config = FrontConfig(
            socket_path=path,
            weights=order.artifact_path,
            model=order.model,
            artifacts_dir=order.artifacts_dir or "",
            argv=("trtllm-serve", "{weights}", *_flags(settings, order)),
            missing="start Outpace where TensorRT-LLM is installed, such as NVIDIA's container",
        )
        files = tuple(filter(None, (order.artifact_path, settings.options_file)))
        launch = child.launch_module("outpace.engines.front_main", config, path, order.token, files)
        needs = Needs(devices=settings.tensor_parallel * settings.pipeline_parallel)
        return msgspec.structs.replace(launch, needs=needs)

    def load(self, body: bytes) -> Load:
        """Figures of the newest iteration; none since the last look means that nothing runs."""
        try:
            iterations = msgspec.json.decode(body, type=list[_Iteration])
        except msgspec.DecodeError as error:
            raise EngineFailed("TensorRT-LLM's metrics do not tell its load.") from error
        if not iterations:
            return Load(running=0, waiting=0)
        last = iterations[-1]
        return Load(
            running=last.num_active_requests,
            waiting=last.num_queued_requests,
            kv_used_fraction=_kv_used(last.kv_cache_stats),
        )


def _kv_used(stats: dict[str, float] | None) -> float | None:
    if not stats or not stats.get("maxNumBlocks"):
        return None
    return stats.get("usedNumBlocks", 0) / stats["maxNumBlocks"]


def _flags(settings: TensorRtLlmSettings, order: LaunchOrder) -> tuple[str, ...]:
    flags = [
        *("--host", "127.0.0.1", "--port", "{port}"),
        *("--served_model_name", order.deployment),
        *("--max_batch_size", str(order.parallel)),
        *("--max_seq_len", str(order.context_tokens)),
        *("--tp_size", str(settings.tensor_parallel)),
        *("--pp_size", str(settings.pipeline_parallel)),
        *("--kv_cache_free_gpu_memory_fraction", str(settings.kv_memory_fraction)),
    ]
    given = {
        "--ep_size": settings.expert_parallel,
        "--max_num_tokens": settings.batch_tokens,
        "--extra_llm_api_options": settings.options_file,
        "--tool_parser": settings.tool_parser,
        "--reasoning_parser": settings.reasoning_parser,
    }
    return (*flags, *(word for flag, value in given.items() if value for word in (flag, f"{value}")))
