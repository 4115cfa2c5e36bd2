"""Messages as llama.cpp's chat templates take them: text only, control tokens defused, tools told.

llama.cpp parses control tokens in the rendered template wherever they come from; a text such as `<|im_end|>` inside
a message would end it. A zero-width space after its first character keeps the text readable and breaks the token.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from outpace.values.errors import UnsupportedParameter
from outpace.values.requests import (
    AssistantMessage,
    DeveloperMessage,
    FunctionMessage,
    FunctionTool,
    Message,
    RefusalPart,
    SystemMessage,
    TextPart,
    ToolMessage,
)

_BREAK = "\u200b"
Defuse = Callable[[str], str]


@lru_cache(maxsize=256)
def defuser(control_texts: tuple[str, ...]) -> Defuse:
    """A function that breaks every control text inside a text."""
    texts = tuple(text for text in control_texts if len(text) > 1)
    # Most control texts share their beginning: one look for it settles most messages.
    beginnings = tuple({text[:2] for text in texts})

    def defuse(text: str) -> str:
        if not any(beginning in text for beginning in beginnings):
            return text
        for control in texts:
            if control in text:
                text = text.replace(control, control[0] + _BREAK + control[1:])
        return text

    return defuse


def rendered(messages: Sequence[Message], defuse: Defuse, native_tools: bool) -> list[dict[str, Any]]:
    """The messages for the engine's body. Raises UnsupportedParameter for parts that are no text, by name."""
    return [
        _rendered(message, f"messages[{index}]", defuse, native_tools)
        for index, message in enumerate(messages)
    ]


def with_tools_told(
    messages: list[dict[str, Any]], tools: Sequence[FunctionTool], defuse: Defuse
) -> list[dict[str, Any]]:
    """The messages with the tools described in the first system message, for templates that show no tools."""
    described = "\n".join(msgspec.json.encode(tool.function).decode() for tool in tools)
    told = defuse(f"Answer by calling one of these functions, as JSON:\n{described}")
    if messages and messages[0]["role"] == "system":
        first = {**messages[0], "content": f"{messages[0]['content']}\n\n{told}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": told}, *messages]


def _rendered(message: Message, where: str, defuse: Defuse, native_tools: bool) -> dict[str, Any]:
    role, content = _role(message), message.content
    text = defuse(content) if isinstance(content, str) else defuse(_joined(content or (), f"{where}.content"))
    wire: dict[str, Any] = {"role": role, "content": text}
    if message.name is not None and not isinstance(message, FunctionMessage):
        wire["name"] = defuse(message.name)
    if isinstance(message, AssistantMessage):
        _add_assistant(wire, message, where, defuse, native_tools)
    elif native_tools and isinstance(message, ToolMessage):
        wire["tool_call_id"] = defuse(message.tool_call_id)
    return wire


def _role(message: Message) -> str:
    # `developer` is the newer name of `system`; templates know the older one.
    if isinstance(message, SystemMessage | DeveloperMessage):
        return "system"
    if isinstance(message, AssistantMessage):
        return "assistant"
    return "tool" if isinstance(message, ToolMessage | FunctionMessage) else "user"


def _joined(parts: Sequence[object], where: str) -> str:
    texts = []
    for index, part in enumerate(parts):
        if isinstance(part, TextPart):
            texts.append(part.text)
        elif isinstance(part, RefusalPart):
            texts.append(part.refusal)
        else:
            kind = getattr(type(part), "__struct_config__").tag  # noqa: B009  # typed stubs lack it
            raise UnsupportedParameter(
                f"{where}[{index}]", f"this model reads text only; leave the {kind} part out"
            )
    return "\n".join(texts)


def _add_assistant(
    wire: dict[str, Any], message: AssistantMessage, where: str, defuse: Defuse, native_tools: bool
) -> None:
    if message.audio is not None:
        raise UnsupportedParameter(f"{where}.audio", "this model reads text only; leave it out")
    if message.refusal is not None and not wire["content"]:
        wire["content"] = defuse(message.refusal)
    if message.reasoning_content is not None:
        wire["reasoning_content"] = defuse(message.reasoning_content)
    calls = [*(message.tool_calls or ())]
    functions = [call.function for call in calls] + ([message.function_call] if message.function_call else [])
    if not functions:
        return
    if native_tools and calls:
        wire["tool_calls"] = [
            {
                "id": defuse(call.id),
                "type": "function",
                "function": {
                    "name": defuse(call.function.name),
                    "arguments": defuse(call.function.arguments),
                },
            }
            for call in calls
        ]
        return
    said = [defuse(msgspec.json.encode(function).decode()) for function in functions]
    wire["content"] = "\n".join(filter(None, [wire["content"], *said]))
