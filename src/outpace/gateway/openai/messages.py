"""What one message cannot know of the others: tool answers need the call that they answer."""

from collections.abc import Sequence

from outpace.values.errors import InvalidInput
from outpace.values.requests import AssistantMessage, Message, ToolMessage


def check_messages(messages: Sequence[Message]) -> None:
    """Raise InvalidInput for the first message that makes no sense where it stands."""
    called: set[str] = set()
    for index, message in enumerate(messages):
        if message.content == []:
            raise InvalidInput(f"messages[{index}].content", "must have at least one part")
        if isinstance(message, AssistantMessage):
            _check_assistant(message, index)
            if message.tool_calls:
                called.update(call.id for call in message.tool_calls)
        elif isinstance(message, ToolMessage) and message.tool_call_id not in called:
            raise InvalidInput(
                f"messages[{index}].tool_call_id",
                "must be the id of a tool call in an earlier assistant message",
            )


def _check_assistant(message: AssistantMessage, index: int) -> None:
    says_something = message.content is not None or message.refusal is not None
    if (
        not says_something
        and not message.tool_calls
        and message.function_call is None
        and message.audio is None
    ):
        raise InvalidInput(f"messages[{index}].content", "is required unless the message has tool_calls")
