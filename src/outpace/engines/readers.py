"""Readers of OpenAI-style answers, shared by adapters: events from pieces, usage, one terminal event.

Bytes pass through; an event is parsed only when it is not a plain delta (usage, finish, error).
"""

import re
from collections.abc import Callable, Mapping

import msgspec

from outpace.engines.wire import ENCODE, Event, decode_event, decode_marks, encode_usage
from outpace.values.errors import EngineFailed, OutpaceError
from outpace.values.usage import Usage

# An engine that sends this much without the end of an event sends no events.
_LONGEST_EVENT_BYTES = 16 * 1024 * 1024
_LONGEST_REFUSAL_BYTES = 64 * 1024

DONE = b"data: [DONE]\n\n"
NULL_USAGE = b',"usage":null'
# A key never occurs inside a JSON string: there its closing quote would be escaped.
_MODEL = re.compile(rb'"model"\s*:\s*"(?:[^"\\]|\\.)*"')
_LEARN = re.compile(rb'"finish_reason"\s*:\s*"|"usage"\s*:\s*\{|"error"\s*:\s*[{"]')
_SAID = re.compile(rb'"(?:content|text|arguments|reasoning|reasoning_content|refusal)"\s*:\s*"[^"]')
_USAGE_NULL = re.compile(rb'\s*,\s*"usage"\s*:\s*null|"usage"\s*:\s*null\s*,')

ErrorOf = Callable[[int, bytes], OutpaceError]


class AnswerReader:
    """A whole JSON answer: usage and finish are learnt, the bytes stay but for the model's name."""

    def __init__(self, error: ErrorOf, model: bytes | None = None) -> None:
        self.usage = Usage()
        self.finish_reason: str | None = None
        self.is_complete = False
        self._error = error
        # The model name to show, JSON-encoded; None leaves the engine's.
        self._model = model
        self._status = 200
        self._pieces: list[bytes] = []

    def started(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self._status = status

    def feed(self, piece: bytes) -> bytes:
        self._pieces.append(piece)
        return b""

    def finished(self) -> bytes:
        body = b"".join(self._pieces)
        if self._status != 200:
            raise self._error(self._status, body[:_LONGEST_REFUSAL_BYTES])
        return self._answered(body)

    def _answered(self, body: bytes) -> bytes:
        marks = decode_marks(body)
        if marks.error is not None:
            raise self._error(500, body[:_LONGEST_REFUSAL_BYTES])
        if not marks.choices and marks.data is None:
            raise EngineFailed("The engine's answer holds no choices.")
        if marks.usage:
            self.usage = marks.usage.value()
        self.finish_reason = marks.choices[0].finish_reason if marks.choices else None
        self.is_complete = True
        return _renamed(body, self._model)


class EventReader:
    """A stream of events; subclasses say what becomes of one in `_plain` and `_rare`.

    `feed` takes pieces cut anywhere. Only whole events leave it.
    """

    def __init__(self, error: ErrorOf) -> None:
        self.finish_reason: str | None = None
        self.is_complete = False
        self._error = error
        self._status = 200
        self._rest = b""
        self._reported: Usage | None = None
        self._prompt_tokens = 0
        self._cached_tokens = 0
        self._num_deltas = 0

    @property
    def usage(self) -> Usage:
        """What the engine reported; before that, the deltas seen so far."""
        if self._reported is not None:
            return self._reported
        return Usage(self._prompt_tokens, self._num_deltas, self._cached_tokens)

    def started(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self._status = status

    def feed(self, piece: bytes) -> bytes:
        if self._rest:
            piece = self._rest + piece
            self._rest = b""
        if not piece.endswith(b"\n\n") or self._status != 200:
            piece = self._keep_rest(piece)
        num_events = piece.count(b"\n\n")
        if num_events == 1:
            return self._event(piece)
        if not num_events:
            return b""
        return b"".join([self._event(event + b"\n\n") for event in piece[:-2].split(b"\n\n")])

    def finished(self) -> bytes:
        if self._status != 200:
            raise self._error(self._status, self._rest)
        if not self.is_complete:
            raise EngineFailed("The engine's stream broke off before its end.")
        return b""

    def _keep_rest(self, piece: bytes) -> bytes:
        """Hold back what follows the last whole event; of a refusal, everything."""
        if self._status != 200:
            self._rest = piece[:_LONGEST_REFUSAL_BYTES]
            return b""
        cut = piece.rfind(b"\n\n") + 2
        if cut == 1:
            cut = 0
        self._rest = piece[cut:]
        if len(self._rest) > _LONGEST_EVENT_BYTES:
            raise EngineFailed("The engine sent an event without end.")
        return piece[:cut]

    def _event(self, event: bytes) -> bytes:
        raise NotImplementedError


class PassingReader(EventReader):
    """Events of an engine that keeps to the contract: passed on, usage as the client asked for it.

    An engine that reports no usage is counted by its deltas (`is_estimated`).
    """

    def __init__(self, error: ErrorOf, *, wants_usage: bool, model: bytes | None = None) -> None:
        super().__init__(error)
        self._wants_usage = wants_usage
        self._model = model
        # The engine's own `"model":"…"`, as its first event wrote it.
        self._engine_model: bytes | None = None
        self._last = Event()

    @property
    def is_estimated(self) -> bool:
        """The engine reported no usage: `usage` counts deltas, the prompt is unknown."""
        return self.is_complete and self._reported is None

    def feed(self, piece: bytes) -> bytes:
        # Raw carriage returns cannot be inside JSON: line ends of either kind become LF.
        return super().feed(piece.replace(b"\r", b"") if b"\r" in piece else piece)

    def finished(self) -> bytes:
        if self._status == 200 and not self.is_complete and self.finish_reason is not None:
            # Some servers end after the last choice without the terminal event.
            return self._done()
        return super().finished()

    def _event(self, event: bytes) -> bytes:
        if not event.startswith(b"data:"):
            return self._other_lines(event)
        if event.startswith((b"data: [DONE]", b"data:[DONE]")):
            return self._done()
        if _is_plain(event):
            self._num_deltas += _says_something(event)
        elif _LEARN.search(event):
            event = self._learn(event[5:].strip())
        elif _SAID.search(event):
            self._num_deltas += 1
        if not event:
            return b""
        return self._with_usage_field(self._with_model(event))

    def _with_model(self, event: bytes) -> bytes:
        if self._model is None:
            return event
        if self._engine_model is None:
            found = _MODEL.search(event)
            if found is None:
                return event
            self._engine_model = found.group()
        return event.replace(self._engine_model, b'"model":' + self._model, 1)

    def _other_lines(self, event: bytes) -> bytes:
        """Comments and `event:` lines: keep the data line, if any."""
        lines = [line for line in event.split(b"\n") if line.startswith(b"data:")]
        return self._event(lines[0] + b"\n\n") if lines else b""

    def _learn(self, payload: bytes) -> bytes:
        """Take what is to be known; without a usage object, and nothing of an event that held only that."""
        parsed = self._last = decode_event(payload)
        if parsed.error is not None:
            raise self._error(500, payload)
        for choice in parsed.choices:
            self.finish_reason = choice.finish_reason or self.finish_reason
        if parsed.usage is not None:
            self._reported = parsed.usage.value()
            payload = _without_usage(payload)
        return b"data: " + payload + b"\n\n" if parsed.choices else b""

    def _done(self) -> bytes:
        self.is_complete = True
        if not self._wants_usage:
            return DONE
        return usage_event(self._last, self.usage, self._model) + DONE

    def _with_usage_field(self, event: bytes) -> bytes:
        has_field = b'"usage"' in event
        if self._wants_usage:
            return event if has_field else event.rstrip()[:-1] + NULL_USAGE + b"}\n\n"
        if not has_field:
            return event
        if NULL_USAGE in event:
            return event.replace(NULL_USAGE, b"", 1)
        return _USAGE_NULL.sub(b"", event, count=1)


def _is_plain(event: bytes) -> bool:
    """An ordinary delta of an engine that writes JSON without spaces: found without a regular expression."""
    return (
        b'"finish_reason":null' in event
        and b'"finish_reason":"' not in event
        and b'"usage":{' not in event
        and b'"error"' not in event
    )


def _says_something(event: bytes) -> bool:
    if b'"content":"' in event:
        return b'"content":""' not in event
    return _SAID.search(event) is not None


def usage_event(last: Event, usage: Usage, model: bytes | None) -> bytes:
    """The extra event that `include_usage` asks for: no choices, only usage."""
    head = {"id": last.id, "object": last.object, "created": last.created, "model": last.model, "choices": []}
    raw = _renamed(ENCODE(head), model)
    return b"data: " + raw[:-1] + b',"usage":' + encode_usage(usage) + b"}\n\n"


def _without_usage(payload: bytes) -> bytes:
    parsed = msgspec.json.decode(payload)
    del parsed["usage"]
    return ENCODE(parsed)


def _renamed(body: bytes, model: bytes | None) -> bytes:
    if model is None:
        return body
    # A function: the replacement is text, not a template.
    return _MODEL.sub(lambda _: b'"model":' + model, body, count=1)
