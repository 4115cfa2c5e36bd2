"""SGLang on GPUs: launch flags, its OpenAI server behind our front, its quirks hidden.

OUTPACE_SGLANG_PYTHON names an interpreter that has SGLang; without it, it is the one of Outpace.
Written to SGLang 0.5.23's published protocol and flags; it was not run by us (docs/reference/compatibility.md).
- `tool_choice` `required` or a name is forced by grammar; `auto` needs the setting `tool_parser`.
- Refused: `suffix`, `best_of`, `return_token_ids`, `reasoning_effort`, `verbosity`, parts that are no text.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from outpace.engines import child
from outpace.engines.front_config import FrontConfig
from outpace.engines.parameters import settings_of
from outpace.engines.protocol import Capabilities
from outpace.engines.served import PARAMETERS, ServedEngine
from outpace.engines.served_body import Quirks
from outpace.values.deployment import Launch, LaunchOrder, Needs
from outpace.values.errors import InvalidInput

Count = Annotated[int, Meta(ge=1, le=1 << 20)]
_ORDERED = frozenset({"parallel", "context_tokens", "threads"})


class SglangSettings(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """Engine settings of an SGLang deployment, besides `parallel`, `context_tokens` and `threads`."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    quantization: str = ""
    kv_cache_dtype: Literal["auto", "fp8_e5m2", "fp8_e4m3", "bf16"] = "auto"
    tensor_parallel: Count = 1
    pipeline_parallel: Count = 1
    expert_parallel: Count = 1
    # Tokens of one prefill chunk; 0: SGLang's choice.
    batch_tokens: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    # Share of GPU memory for weights and KV cache; 0: SGLang's choice.
    gpu_memory_fraction: Annotated[float, Meta(ge=0, le=1)] = 0.0
    prefix_caching: bool = True
    speculation: Literal["off", "ngram", "draft"] = "off"
    draft_model: str = ""
    speculative_tokens: Annotated[int, Meta(ge=1, le=64)] = 4
    tool_parser: str = ""
    reasoning_parser: str = ""


class Sglang(ServedEngine):
    """Adapter of `python -m sglang.launch_server`."""

    name = "sglang"
    capabilities = Capabilities(
        tasks=frozenset({"chat", "completions", "embeddings"}),
        parameters=PARAMETERS,
        tested_with="its protocol",
    )
    quirks = Quirks(continues_with={"continue_final_message": True})
    running_metric = "sglang:num_running_reqs"
    waiting_metric = "sglang:num_queue_reqs"
    kv_metric = "sglang:token_usage"

    def launch(self, order: LaunchOrder) -> Launch:
        settings = settings_of(order.engine_settings, SglangSettings, self.name, _ORDERED)
        if order.artifact_path is None:
            raise InvalidInput("model", f"{order.model} has no weights; SGLang needs a Hugging Face folder")
        path = child.socket_path(order)
        argv = ("{python}", "-m", "sglang.launch_server", *_flags(settings, order))
        config = FrontConfig(
            socket_path=path,
            weights=order.artifact_path,
            model=order.model,
            artifacts_dir=order.artifacts_dir or "",
            argv=argv,
            python_env="OUTPACE_SGLANG_PYTHON",
            takes_key_file=True,
            missing="pip install sglang there, or name an interpreter that has it in OUTPACE_SGLANG_PYTHON",
        )
        files = tuple(filter(None, (order.artifact_path, settings.draft_model)))
        launch = child.launch_module("outpace.engines.front_main", config, path, order.token, files)
        needs = Needs(devices=settings.tensor_parallel * settings.pipeline_parallel)
        return msgspec.structs.replace(launch, needs=needs)


def _flags(settings: SglangSettings, order: LaunchOrder) -> tuple[str, ...]:
    flags = [
        *("--model-path", "{weights}"),
        *("--served-model-name", order.deployment),
        *("--host", "127.0.0.1", "--port", "{port}"),
        *("--context-length", str(order.context_tokens)),
        *("--max-running-requests", str(order.parallel)),
        *("--dtype", settings.dtype),
        *("--kv-cache-dtype", settings.kv_cache_dtype),
        *("--tp-size", str(settings.tensor_parallel)),
        *("--pp-size", str(settings.pipeline_parallel)),
        *("--ep-size", str(settings.expert_parallel)),
        "--enable-metrics",
        "--enable-cache-report",
    ]
    given = {
        "--quantization": settings.quantization,
        "--chunked-prefill-size": settings.batch_tokens,
        "--mem-fraction-static": settings.gpu_memory_fraction,
        "--tool-call-parser": settings.tool_parser,
        "--reasoning-parser": settings.reasoning_parser,
    }
    flags += [word for flag, value in given.items() if value for word in (flag, f"{value}")]
    if not settings.prefix_caching:
        flags.append("--disable-radix-cache")
    if order.tasks == ("embeddings",):
        flags.append("--is-embedding")
    return (*flags, *_speculation(settings))


def _speculation(settings: SglangSettings) -> tuple[str, ...]:
    if settings.speculation == "off":
        return ()
    tokens = ("--speculative-num-draft-tokens", str(settings.speculative_tokens))
    if settings.speculation == "ngram":
        return ("--speculative-algorithm", "NGRAM", *tokens)
    if not settings.draft_model:
        raise InvalidInput("engine_settings.draft_model", "name the draft model's folder, or use ngram")
    return (
        *("--speculative-algorithm", "STANDALONE"),
        *("--speculative-draft-model-path", settings.draft_model),
        *tokens,
    )
