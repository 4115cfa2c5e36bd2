"""Refuses by name what the engine cannot honour; neutral values and fields without effect are always fine."""

from collections.abc import Mapping
from functools import lru_cache

from outpace.engines.protocol import Capabilities
from outpace.values.deployment import Task
from outpace.values.errors import UnsupportedParameter
from outpace.values.requests import EngineBound, TextFormat, endpoint_of

# No effect on the answer: the gateway honours them itself.
WITHOUT_EFFECT = frozenset(
    {
        "include_obfuscation", "metadata", "model", "prompt_cache_key", "prompt_cache_options",
        "prompt_cache_retention", "safety_identifier", "stream", "stream_options", "user",
    }
)  # fmt: skip
# A value that says what would happen anyway: it is dropped before the engine sees it.
NEUTRAL: Mapping[str, object] = {
    "best_of": 1,
    "echo": False,
    "frequency_penalty": 0,
    "ignore_eos": False,
    "logit_bias": {},
    "logprobs": False,
    "min_p": 0,
    "min_tokens": 0,
    "modalities": ["text"],
    "n": 1,
    "parallel_tool_calls": True,
    "presence_penalty": 0,
    "repetition_penalty": 1,
    "return_token_ids": False,
    "service_tier": "default",
    "stop": [],
    "store": False,
    "tool_choice": "none",
    "top_logprobs": 0,
    "top_p": 1,
    "verbosity": "medium",
}


def require_supported(request: EngineBound, capabilities: Capabilities, deployment: str) -> None:
    """Drop neutral values that the engine does not know; raise UnsupportedParameter for the rest, by name."""
    task = endpoint_of(request)
    for name in _foreign(type(request), task, capabilities.parameters.get(task, frozenset())):
        value = getattr(request, name)
        if value is None:
            continue
        if not _is_neutral(name, value, request):
            raise UnsupportedParameter(
                name, f"is not supported by the engine that serves {deployment!r}; leave it out"
            )
        setattr(request, name, None)


def _is_neutral(name: str, value: object, request: EngineBound) -> bool:
    if isinstance(value, TextFormat):
        return True
    if name == "best_of":
        return value == (getattr(request, "n", None) or 1)
    if name == "service_tier":
        return value in ("auto", "default")
    if name == "parallel_tool_calls":
        return value is True or getattr(request, "tools", None) is None
    if name not in NEUTRAL:
        return False
    neutral = NEUTRAL[name]
    # In Python True equals 1; on the wire it does not.
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


@lru_cache(maxsize=256)
def _foreign(kind: type, task: Task, known: frozenset[str]) -> tuple[str, ...]:
    fields: tuple[str, ...] = kind.__struct_fields__  # type: ignore[attr-defined]  # every request is a Struct
    return tuple(name for name in fields if name not in known and name not in WITHOUT_EFFECT)
