"""What a request or a deployment asks of an engine, checked against what the engine declares."""

from typing import TypeVar

import msgspec

from outpace.values.deployment import Task
from outpace.values.errors import InvalidInput, UnsupportedParameter
from outpace.values.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    EngineBound,
    endpoint_of,
)

# Fields without effect on the answer's text: the gateway honours them, no engine sees them.
AT_THE_DOOR = frozenset(
    {
        "metadata",
        "model",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "stream",
        "stream_options",
        "user",
    }
)

FIELDS: dict[Task, frozenset[str]] = {
    "chat": frozenset(ChatRequest.__struct_fields__),
    "completions": frozenset(CompletionRequest.__struct_fields__),
    "embeddings": frozenset(EmbeddingRequest.__struct_fields__),
}

_S = TypeVar("_S", bound=msgspec.Struct)


class Declared:
    """The fields that an engine honours per endpoint; `check` refuses every other one by name."""

    def __init__(self, engine: str, parameters: dict[Task, frozenset[str]]) -> None:
        for task, names in parameters.items():
            assert names <= FIELDS[task], f"{engine} declares unknown fields: {sorted(names - FIELDS[task])}"
        self.engine = engine
        self.parameters = parameters
        self._refused = {
            task: tuple(sorted(FIELDS[task] - parameters.get(task, frozenset()) - AT_THE_DOOR))
            for task in FIELDS
        }

    def check(self, request: EngineBound) -> None:
        """Raise UnsupportedParameter for the first field asked for that the engine does not honour."""
        endpoint = endpoint_of(request)
        if endpoint not in self.parameters:
            raise UnsupportedParameter("model", f"the {self.engine} engine does not serve {endpoint}")
        for name in self._refused[endpoint]:
            if getattr(request, name) is not None:
                raise unsupported(name, self.engine)


def unsupported(name: str, engine: str, remedy: str = "leave it out or choose another model") -> InvalidInput:
    """The refusal of one field."""
    return UnsupportedParameter(name, f"not supported by this model's engine ({engine}); {remedy}")


def settings_of(
    settings: dict[str, str | int | float | bool],
    kind: type[_S],
    engine: str,
    own: frozenset[str] = frozenset(),
) -> _S:
    """`settings` as the engine's struct; `own` names come from the order instead. Raises InvalidInput by name."""
    known = kind.__struct_fields__
    for name in settings:
        if name not in known and name not in own:
            choices = ", ".join(sorted({*known, *own}))
            raise InvalidInput(
                f"engine_settings.{name}", f"{engine} knows no such setting; it knows {choices}"
            )
    mine = {name: value for name, value in settings.items() if name in known}
    try:
        return msgspec.convert(mine, kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidInput("engine_settings", f"for {engine}: {error}") from error
