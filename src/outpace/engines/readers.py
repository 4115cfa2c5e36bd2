"""Readers of OpenAI-style answers, shared by adapters: events from pieces, usage, one terminal event.

Bytes pass through; an event is parsed only when it is not a plain delta (usage, finish, error).
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

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
_CONTENT = re.compile(rb'"content":"((?:[^"\\]|\\.)*)"')
_SAID = re.compile(rb'"(?:content|text|arguments|reasoning|reasoning_content|refusal)"\s*:\s*"[^"]')
_USAGE_NULL = re.compile(rb'\s*,\s*"usage"\s*:\s*null|"usage"\s*:\s*null\s*,')

# Stands for the text while a frame is shown; no JSON holds a raw control character.
_PLACE = b"\x00"
_MOST_FRAMES = 8

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


class _Frame(NamedTuple):
    """The bytes around the text of a delta, as the engine sends them and as the client gets them."""

    before: bytes
    after: bytes
    shown_before: bytes
    shown_after: bytes


class PassingReader(EventReader):
    """Events of an engine that keeps to the contract: passed on, usage as the client asked for it.

    `prompt_tokens` counts until the engine reports usage; an engine that never does is counted by it and by the
    deltas (`is_estimated`).
    """

    def __init__(
        self, error: ErrorOf, *, wants_usage: bool, model: bytes | None = None, prompt_tokens: int = 0
    ) -> None:
        super().__init__(error)
        self._prompt_tokens = prompt_tokens
        self._wants_usage = wants_usage
        self._model = model
        # The engine's own `"model":"…"`, as its first event wrote it.
        self._engine_model: bytes | None = None
        self._last = Event()
        # `"model":"…"` as this engine writes it, and as the client gets it.
        self._engine_model = b""
        self._shown_model = b'"model":' + model if model else b""
        self._frame: _Frame | None = None
        self._frames_left = _MOST_FRAMES

    @property
    def is_estimated(self) -> bool:
        """The engine reported no usage: `usage` counts deltas, and the prompt as given."""
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
        frame = self._frame
        if frame is not None and event.startswith(frame.before) and event.endswith(frame.after):
            text = event[len(frame.before) : -len(frame.after)]
            if text:
                self._num_deltas += 1
            return frame.shown_before + text + frame.shown_after
        return self._framed(event)

    def _framed(self, event: bytes) -> bytes:
        """An event that is no plain delta in the known frame."""
        if not event.startswith(b"data:"):
            return self._other_lines(event)
        if event.startswith((b"data: [DONE]", b"data:[DONE]")):
            return self._done()
        if _tells_more(event):
            event = self._learn(event[5:].strip())
            return self._shown(event) if event else b""
        if _says_something(event):
            self._num_deltas += 1
            self._learn_frame(event)
        return self._shown(event)

    def _learn_frame(self, event: bytes) -> None:
        """Remember what surrounds the text of a delta; streams whose frame keeps changing are left alone."""
        content = _CONTENT.search(event) if self._frames_left else None
        if content is None:
            return
        self._frames_left -= 1
        before, after = event[: content.start(1)], event[content.end(1) :]
        shown = self._shown(before + _PLACE + after).partition(_PLACE)
        self._frame = _Frame(before, after, shown[0], shown[2])

    def _shown(self, event: bytes) -> bytes:
        return self._with_usage_field(self._with_model(event))

    def _with_model(self, event: bytes) -> bytes:
        if not self._shown_model:
            return event
        if not self._engine_model or self._engine_model not in event:
            found = _MODEL.search(event)
            if not found:
                return event
            self._engine_model = found[0]
        if self._engine_model == self._shown_model:
            return event
        return event.replace(self._engine_model, self._shown_model, 1)

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
        if self._wants_usage:
            return event if b'"usage"' in event else event.rstrip()[:-1] + NULL_USAGE + b"}\n\n"
        event = event.replace(NULL_USAGE, b"", 1)
        return _USAGE_NULL.sub(b"", event, count=1) if b'"usage"' in event else event


def _tells_more(event: bytes) -> bool:
    """The event carries a finish, usage or an error, as compact or as spacing encoders write it."""
    return (
        b'"finish_reason":"' in event
        or b'"usage":{' in event
        or b'"error":' in event
        or b'"finish_reason": "' in event
        or b'"usage": {' in event
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
