"""The parts of OpenAI-style answers that must be understood, typed; everything else stays bytes."""

from typing import Any

import msgspec

from outpace.values.errors import EngineFailed
from outpace.values.usage import Usage


class PromptDetails(msgspec.Struct):
    """Parts of the prompt's tokens."""

    cached_tokens: int | None = None


class CompletionDetails(msgspec.Struct):
    """Parts of the output's tokens."""

    reasoning_tokens: int | None = None
    # Ours: of speculation.
    drafted_tokens: int | None = None
    accepted_tokens: int | None = None


class WireUsage(msgspec.Struct, omit_defaults=True):
    """Usage as engines report it."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None

    def value(self) -> Usage:
        """As our value; what is not reported is 0."""
        prompt, completion = self.prompt_tokens_details, self.completion_tokens_details
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cached_tokens=(prompt.cached_tokens or 0) if prompt else 0,
            reasoning_tokens=(completion.reasoning_tokens or 0) if completion else 0,
            drafted_tokens=(completion.drafted_tokens or 0) if completion else 0,
            accepted_tokens=(completion.accepted_tokens or 0) if completion else 0,
        )


class Delta(msgspec.Struct):
    """What one chat event adds."""

    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class EventChoice(msgspec.Struct):
    """One choice in a stream event; `delta` for chat, `text` for completions."""

    index: int = 0
    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None


class Event(msgspec.Struct):
    """One stream event."""

    id: str = ""
    object: str = ""
    created: int = 0
    model: str = ""
    system_fingerprint: str | None = None
    choices: list[EventChoice] = []
    usage: WireUsage | None = None
    error: Any = None


class AnswerChoice(msgspec.Struct):
    """How one choice of a whole answer ended."""

    finish_reason: str | None = None


class AnswerMarks(msgspec.Struct):
    """What must be known of a whole answer."""

    model: str | None = None
    choices: list[AnswerChoice] = []
    # Set for embeddings.
    data: list[msgspec.Raw] | None = None
    usage: WireUsage | None = None
    error: Any = None


_EVENT = msgspec.json.Decoder(Event)
_MARKS = msgspec.json.Decoder(AnswerMarks)
ENCODE = msgspec.json.Encoder().encode


def decode_event(payload: bytes) -> Event:
    """The event in the JSON after `data: `. Raises EngineFailed."""
    try:
        return _EVENT.decode(payload)
    except msgspec.DecodeError as error:
        raise EngineFailed("The engine sent an event that is no JSON of the expected form.") from error


def decode_marks(body: bytes) -> AnswerMarks:
    """The marks of a whole answer. Raises EngineFailed."""
    try:
        return _MARKS.decode(body)
    except msgspec.DecodeError as error:
        raise EngineFailed("The engine's answer is no JSON of the expected form.") from error


def encode_usage(usage: Usage) -> bytes:
    """Usage as clients expect it, details included; what speculation did is added where it did something."""
    output_details = {"reasoning_tokens": usage.reasoning_tokens}
    if usage.drafted_tokens:
        output_details |= {"drafted_tokens": usage.drafted_tokens, "accepted_tokens": usage.accepted_tokens}
    return ENCODE(
        {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
            "completion_tokens_details": output_details,
        }
    )
