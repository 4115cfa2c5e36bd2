"""A stream that goes on at another replica: what its client has got so far, and the second answer made to follow it.

One id, one `created`, one role, no gap and no repeat: the other replica continues behind the text that was sent. What
is drawn at random is drawn anew, seed or not; greedy answers come out as if nothing had happened, but for what rounding
in other batches does.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from outpace.engines.protocol import Reader
from outpace.engines.wire import encode_usage
from outpace.values.requests import (
    ChatRequest,
    CompletionRequest,
    EngineBound,
    TextFormat,
    num_choices,
    output_limit_tokens,
)
from outpace.values.usage import Usage

# The text of a delta. Keys never occur inside a JSON string: there their quotes would be escaped.
_SAID = re.compile(rb'"(?:content|text)":\s*"((?:[^"\\]|\\.)*)"')
_DONE = b"data: [DONE]\n\n"
_ENCODE = msgspec.json.Encoder().encode


def can_move(request: EngineBound) -> bool:
    """Whether a stream of this request can go on from its text alone."""
    if not isinstance(request, ChatRequest | CompletionRequest) or not request.stream:
        return False
    if num_choices(request) != 1 or request.logprobs or request.return_token_ids or request.min_tokens:
        return False
    if isinstance(request, ChatRequest):
        return not (
            request.tools or request.functions or not isinstance(request.response_format, TextFormat | None)
        )
    return not request.echo and request.suffix is None and _is_one_prompt(request.prompt)


def _is_one_prompt(prompt: object) -> bool:
    return isinstance(prompt, str) or (
        isinstance(prompt, list) and all(isinstance(each, int) for each in prompt)
    )


class Transcript:
    """What a client has got of one stream."""

    def __init__(self) -> None:
        self._said = bytearray()
        self._first = b""
        self._is_plain = True

    def add(self, out: bytes) -> None:
        """Bytes on their way to the client: whole events."""
        if not self._first:
            self._first = out
        for said in _SAID.findall(out):
            self._said += said
        if b'"reasoning' in out:
            self._is_plain = False

    @property
    def is_whole(self) -> bool:
        """The text is all that was said."""
        return self._is_plain

    @property
    def text(self) -> str:
        """The text so far."""
        return msgspec.json.decode(b'"%b"' % bytes(self._said), type=str)

    @property
    def head(self) -> dict[str, Any]:
        """What all events of the stream share."""
        first = msgspec.json.decode(self._first.split(b"\n\n", 1)[0].removeprefix(b"data: "))
        return {
            name: first[name] for name in ("id", "created", "model", "system_fingerprint") if name in first
        }


class FollowingReader:
    """The reader of the second answer, its events made to follow those of the first."""

    def __init__(self, inner: Reader, transcript: Transcript, before: Usage) -> None:
        self._inner = inner
        self._head = transcript.head
        self._before = before

    @property
    def usage(self) -> Usage:
        """Both answers together; the prompt is that of the first."""
        before, after = self._before, self._inner.usage
        return Usage(
            prompt_tokens=before.prompt_tokens,
            completion_tokens=before.completion_tokens + after.completion_tokens,
            cached_tokens=before.cached_tokens,
            reasoning_tokens=before.reasoning_tokens + after.reasoning_tokens,
            drafted_tokens=before.drafted_tokens + after.drafted_tokens,
            accepted_tokens=before.accepted_tokens + after.accepted_tokens,
        )

    @property
    def finish_reason(self) -> str | None:
        return self._inner.finish_reason

    @property
    def is_complete(self) -> bool:
        return self._inner.is_complete

    def started(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self._inner.started(status, headers)

    def feed(self, piece: bytes) -> bytes:
        return self._followed(self._inner.feed(piece))

    def finished(self) -> bytes:
        return self._followed(self._inner.finished())

    def _followed(self, out: bytes) -> bytes:
        return b"".join([self._event(event) for event in out.split(b"\n\n") if event])

    def _event(self, event: bytes) -> bytes:
        if event == b"data: [DONE]" or not event.startswith(b"data: "):
            return event + b"\n\n"
        payload = msgspec.json.decode(event[6:]) | self._head
        if payload.get("usage"):
            payload["usage"] = msgspec.Raw(encode_usage(self.usage))
        for choice in payload.get("choices", ()):
            delta = choice.get("delta")
            if delta is None:
                continue
            if delta.pop("role", None) and not delta.get("content") and choice["finish_reason"] is None:
                return b""
        return b"data: " + _ENCODE(payload) + b"\n\n"


def tokens_left(request: EngineBound, sent_tokens: int) -> int | None:
    """Output that may still come; None: no limit was asked for."""
    limit = output_limit_tokens(request)
    return None if limit is None else limit - sent_tokens


def ending(request: EngineBound, transcript: Transcript, usage: Usage, finish_reason: str | None) -> bytes:
    """The last events of a stream of which only these were missing."""
    is_chat = isinstance(request, ChatRequest)
    shape = "chat.completion.chunk" if is_chat else "text_completion"
    head = {**transcript.head, "object": shape}
    said: dict[str, Any] = {"delta": {}} if is_chat else {"text": ""}
    last = {"index": 0, **said, "logprobs": None, "finish_reason": "length"}
    events: list[dict[str, Any]] = [] if finish_reason else [{**head, "choices": [last]}]
    options = getattr(request, "stream_options", None)
    if options is not None and options.include_usage:
        events = [{**event, "usage": None} for event in events]
        events.append({**head, "choices": [], "usage": msgspec.Raw(encode_usage(usage))})
    return b"".join([b"data: " + _ENCODE(event) + b"\n\n" for event in events]) + _DONE
