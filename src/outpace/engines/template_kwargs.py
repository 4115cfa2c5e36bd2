"""What a request may tell a chat template beside the conversation."""

from typing import Any

from outpace.engines.messages import Defuse
from outpace.values.errors import InvalidInput

# What a caller's template variables may not replace.
_TEMPLATE_OWN = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token", "json_schema"}
)
_MOST_KWARGS = 16
_LONGEST_KWARG = 256


def checked_kwargs(kwargs: dict[str, Any], defuse: Defuse) -> dict[str, Any]:
    """Flags and short words for the template; nothing that could replace the conversation or cost time."""
    if len(kwargs) > _MOST_KWARGS:
        raise InvalidInput("chat_template_kwargs", f"at most {_MOST_KWARGS} entries")
    for name, value in kwargs.items():
        where = f"chat_template_kwargs.{name[:64]}"
        if name in _TEMPLATE_OWN or not name.isidentifier() or len(name) > 64:
            raise InvalidInput(where, "cannot be set by a request")
        if not isinstance(value, bool | int | float | str) or len(str(value)) > _LONGEST_KWARG:
            raise InvalidInput(where, f"must be a boolean, a number or at most {_LONGEST_KWARG} characters")
    return {name: defuse(value) if isinstance(value, str) else value for name, value in kwargs.items()}
