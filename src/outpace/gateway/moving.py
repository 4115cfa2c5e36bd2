"""A stream that goes on at another replica: what its client has got so far, and the second answer made to follow it.

One id, one `created`, one role, no gap and no repeat. Two ways:
- *behind the text*: the other replica reads what was sent as the beginning of the answer. Quick, for answers of any
  length; what is drawn at random is drawn anew, and where two words nearly tie, rounding in another batch may choose
  the other one.
- *again*: a greedy or seeded answer is asked for once more, and what the client has got is checked and left out
  (`Again`). Token by token as the first time, so it goes on as if nothing had happened; takes as long as the first did.
"""

import re
from collections.abc import Mapping
from typing import Any, TypeGuard

import msgspec

from outpace.engines.protocol import Reader
from outpace.engines.wire import encode_usage
from outpace.values.errors import EngineFailed
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


# What took longer to say is not said again: its client would wait as long.
AGAIN_S = 5.0


class Parted(EngineFailed):
    """An answer that was asked for again said something else than the first time."""


def can_move(request: EngineBound) -> bool:
    """Whether a stream of this request can go on from its text alone."""
    return (
        _is_plain(request)
        and not request.min_tokens
        and isinstance(getattr(request, "response_format", None), TextFormat | None)
    )


def can_repeat(request: EngineBound) -> bool:
    """Whether a stream of this request says the same when it is asked for again: greedy, or with a seed."""
    return _is_plain(request) and (request.temperature == 0 or request.seed is not None)


def _is_plain(request: EngineBound) -> TypeGuard[ChatRequest | CompletionRequest]:
    """One stream of text and nothing else."""
    if not isinstance(request, ChatRequest | CompletionRequest) or not request.stream:
        return False
    if num_choices(request) != 1 or request.logprobs or request.return_token_ids:
        return False
    if isinstance(request, ChatRequest):
        return not (request.tools or request.functions)
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


class _Second:
    """The reader of a second answer, its events made to follow those of the first."""

    def __init__(self, inner: Reader, transcript: Transcript, before: Usage) -> None:
        self._inner = inner
        self._head = transcript.head
        self._before = before

    @property
    def usage(self) -> Usage:
        raise NotImplementedError

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
        # One choice at most: streams of several do not move.
        if not all(self._is_news(choice) for choice in payload.get("choices", ())):
            return b""
        return b"data: " + _ENCODE(payload) + b"\n\n"

    def _is_news(self, choice: dict[str, Any]) -> bool:
        """Make a choice follow; False when there is nothing in it that the client has not got."""
        delta = choice.get("delta")
        if delta is None:
            return True
        return not (delta.pop("role", None) and not delta.get("content") and choice["finish_reason"] is None)


class Behind(_Second):
    """An answer that goes on behind the text."""

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


class Again(_Second):
    """An answer from its beginning, without what the client has got. Raises Parted where it says something else."""

    def __init__(self, inner: Reader, transcript: Transcript, before: Usage) -> None:
        super().__init__(inner, transcript, before)
        self._left = transcript.text

    @property
    def usage(self) -> Usage:
        """That of the second answer, once it is beyond the first; the prompt is that of the first."""
        before, after = self._before, self._inner.usage
        if after.completion_tokens <= before.completion_tokens:
            return before
        return msgspec.structs.replace(
            after, prompt_tokens=before.prompt_tokens, cached_tokens=before.cached_tokens
        )

    def finished(self) -> bytes:
        out = super().finished()
        if self._left:
            raise Parted("The answer ended earlier when it was asked for again.")
        return out

    def _is_news(self, choice: dict[str, Any]) -> bool:
        is_news = super()._is_news(choice)
        if not self._left:
            return is_news
        said, name = (choice["delta"], "content") if "delta" in choice else (choice, "text")
        text = said.get(name) or ""
        if not (self._left.startswith(text) or text.startswith(self._left)):
            raise Parted("The answer went another way when it was asked for again.")
        news, self._left = text[len(self._left) :], self._left[len(text) :]
        if self._left and choice["finish_reason"] is not None:
            raise Parted("The answer ended earlier when it was asked for again.")
        said[name] = news
        return bool(news) or choice["finish_reason"] is not None


class Mover:
    """How one stream may go on at another replica."""

    def __init__(self, request: EngineBound) -> None:
        self._can_continue = can_move(request)
        self._can_repeat = can_repeat(request)
        can = self._can_continue or self._can_repeat
        self.transcript = Transcript() if can else None
        self._said_in_s = 0.0

    def parted(self) -> None:
        """Said again it became another answer: no second time."""
        self._can_repeat = False

    def stopped(self, first_s: float | None, now_s: float) -> None:
        """The answer broke off now; its client got the first of it at `first_s`."""
        self._said_in_s = 0.0 if first_s is None else now_s - first_s

    @property
    def repeats(self) -> bool:
        """Whether it may be said again: what took too long to say would take as long once more."""
        return self._can_repeat and self._is_whole and self._said_in_s <= AGAIN_S

    @property
    def continues(self) -> bool:
        """Whether it can go on behind its text."""
        return self._can_continue and self._is_whole

    def follow(self, reader: Reader, before: Usage, *, is_again: bool) -> Reader:
        """The second answer's reader, made to follow."""
        assert self.transcript is not None
        return (Again if is_again else Behind)(reader, self.transcript, before)

    @property
    def _is_whole(self) -> bool:
        return self.transcript is not None and self.transcript.is_whole


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
