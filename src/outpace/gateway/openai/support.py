"""Refuses by name what the engine cannot honour; neutral values and fields without effect are always fine."""

from collections.abc import Mapping
from functools import lru_cache

from outpace.engines.parameters import AT_THE_DOOR
from outpace.engines.protocol import Capabilities
from outpace.values.deployment import Task
from outpace.values.errors import UnsupportedParameter
from outpace.values.requests import EmbeddingRequest, EngineBound, TextFormat, endpoint_of

# Fields that the gateway honours only in the values that ask for nothing.
_IN_PART = frozenset({"service_tier", "store"})
# Values that say what would happen anyway. They are dropped before an engine that does not know the field sees them.
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "chat_template_kwargs": ({},),
    "echo": (False,),
    "encoding_format": ("float",),
    "frequency_penalty": (0,),
    "ignore_eos": (False,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "min_p": (0,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "n": (1,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "return_token_ids": (False,),
    "service_tier": ("auto", "default"),
    "stop": ([],),
    "stop_token_ids": ([],),
    "store": (False,),
    "suffix": ("",),
    "temperature": (1,),
    "tools": ([],),
    "top_k": (-1, 0),
    "top_logprobs": (0,),
    "top_p": (1,),
    "verbosity": ("medium",),
}


def require_supported(request: EngineBound, capabilities: Capabilities, deployment: str) -> None:
    """Drop neutral values that the engine does not know; raise UnsupportedParameter for the rest, by name."""
    task = endpoint_of(request)
    known = capabilities.parameters.get(task, frozenset())
    for name in _foreign(type(request), task, known):
        value = getattr(request, name)
        if value is None:
            continue
        if not is_neutral(name, value, request):
            raise _unsupported(name, deployment)
        setattr(request, name, None)
    if isinstance(request, EmbeddingRequest) or request.stream_options is None:
        return
    if request.stream_options.continuous_usage_stats and "continuous_usage_stats" not in known:
        raise _unsupported("stream_options.continuous_usage_stats", deployment)


def is_neutral(name: str, value: object, request: EngineBound) -> bool:
    """Whether the answer would be the same without this field."""
    if isinstance(value, TextFormat):
        return True
    if name == "best_of":
        return value == (getattr(request, "n", None) or 1)
    if name in ("tool_choice", "parallel_tool_calls"):
        return value is True or value == "auto" or not _has_tools(request)
    # In Python True equals 1; on the wire it does not.
    return any(
        value == each and isinstance(value, bool) == isinstance(each, bool) for each in NEUTRAL.get(name, ())
    )


def _has_tools(request: EngineBound) -> bool:
    return bool(getattr(request, "tools", None))


def _unsupported(name: str, deployment: str) -> UnsupportedParameter:
    return UnsupportedParameter(
        name, f"is not supported by the engine that serves {deployment!r}; leave it out"
    )


@lru_cache(maxsize=256)
def _foreign(kind: type, task: Task, known: frozenset[str]) -> tuple[str, ...]:
    fields: tuple[str, ...] = kind.__struct_fields__  # type: ignore[attr-defined]  # every request is a Struct
    return tuple(name for name in fields if name not in known | AT_THE_DOOR or name in _IN_PART - known)
