"""Free JSON inside a request: bounded in depth and size, because it is walked and encoded again."""

from collections.abc import Iterator

from outpace.values.errors import InvalidInput
from outpace.values.requests import AssistantMessage, ChatRequest, CustomTool

MAX_DEPTH = 32
MAX_PARTS = 4_000
_FREE = (
    "audio",
    "chat_template_kwargs",
    "moderation",
    "prediction",
    "prompt_cache_options",
    "web_search_options",
)


def check_freeform(request: ChatRequest, raw: bytes) -> None:
    """Raise InvalidInput for a free-form field that is nested too deeply or too large."""
    # A body with few brackets cannot nest deeply: nearly all requests end here.
    if raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH:
        return
    for name, value in _free_values(request):
        check_size(value, name)


def check_size(value: object, name: str) -> None:
    """Raise InvalidInput when `value` has more than `MAX_DEPTH` levels or `MAX_PARTS` objects, lists and values."""
    waiting = [(1, value)]
    num_parts = 0
    while waiting:
        depth, part = waiting.pop()
        if not isinstance(part, dict | list):
            continue
        if depth > MAX_DEPTH:
            raise InvalidInput(name, f"is nested deeper than {MAX_DEPTH} levels")
        num_parts += len(part)
        if num_parts > MAX_PARTS:
            raise InvalidInput(name, f"has more than {MAX_PARTS} parts; make it smaller")
        inner = part.values() if isinstance(part, dict) else part
        waiting.extend((depth + 1, each) for each in inner)


def _free_values(request: ChatRequest) -> Iterator[tuple[str, object]]:
    for name in _FREE:
        yield name, getattr(request, name)
    for index, message in enumerate(request.messages):
        if isinstance(message, AssistantMessage):
            yield f"messages[{index}].audio", message.audio
            yield f"messages[{index}].annotations", message.annotations
    for index, tool in enumerate(request.tools or ()):
        if isinstance(tool, CustomTool):
            yield f"tools[{index}].custom", tool.custom
    allowed = getattr(request.tool_choice, "allowed_tools", None)
    if allowed is not None:
        yield "tool_choice.allowed_tools.tools", allowed.tools
