"""Tokens of one answer as text: bytes joined to characters, stops found across tokens, log-probabilities beside."""

import codecs
from collections.abc import Sequence
from typing import Any

import msgspec


class Entry(msgspec.Struct, frozen=True):
    """One token with what it added to the text."""

    piece: bytes
    # Characters of the answer up to the end of this token.
    end_chars: int
    logprob: float


class Said(msgspec.Struct, frozen=True):
    """Text that may be sent, and the tokens that are whole in it."""

    text: str
    entries: tuple[Entry, ...] = ()


class AnswerText:
    """Text of one sequence; what could be the beginning of a stop is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._held = ""
        self._sent_chars = 0
        self._seen_chars = 0
        self._entries: list[Entry] = []
        self.is_stopped = False

    def add(self, pieces: Sequence[bytes], logprobs: Sequence[float]) -> Said:
        """What these tokens let us send. After a stop nothing more is added."""
        if not logprobs:
            self._append(self._decode(b"".join(pieces)))
            return self._released()
        for piece, logprob in zip(pieces, logprobs, strict=True):
            self._append(self._decode(piece))
            self._entries.append(Entry(piece, self._seen_chars, logprob))
        return self._released()

    def finish(self) -> Said:
        """The rest: nothing follows that could complete a stop."""
        if self.is_stopped:
            return Said("")
        self._append(self._decode(b"", final=True))
        cut = self._stop_at()
        text = self._held if cut is None else self._held[:cut]
        self.is_stopped = cut is not None
        self._held = ""
        return self._said(text)

    def _append(self, text: str) -> None:
        self._held += text
        self._seen_chars += len(text)

    def _released(self) -> Said:
        cut = self._stop_at()
        if cut is not None:
            self.is_stopped = True
            text, self._held = self._held[:cut], ""
            return self._said(text)
        keep = self._possible_stop()
        text = self._held[: len(self._held) - keep]
        self._held = self._held[len(text) :]
        return self._said(text)

    def _said(self, text: str) -> Said:
        self._sent_chars += len(text)
        whole = 0
        while whole < len(self._entries) and self._entries[whole].end_chars <= self._sent_chars:
            whole += 1
        entries, self._entries = tuple(self._entries[:whole]), self._entries[whole:]
        return Said(text, entries)

    def _stop_at(self) -> int | None:
        found = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        return min(found, default=None)

    def _possible_stop(self) -> int:
        """Characters at the end that may be the beginning of a stop."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(self._held)), 0, -1):
            end = self._held[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0


def chat_logprobs(entries: Sequence[Entry]) -> dict[str, Any] | None:
    """The chat shape; the library tells the chosen token only."""
    if not entries:
        return None
    content = [
        {
            "token": entry.piece.decode(errors="replace"),
            "logprob": entry.logprob,
            "bytes": list(entry.piece),
            "top_logprobs": [],
        }
        for entry in entries
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(entries: Sequence[Entry], offset: int) -> tuple[dict[str, Any] | None, int]:
    """The completions shape, and the offset after them."""
    if not entries:
        return None, offset
    tokens = [entry.piece.decode(errors="replace") for entry in entries]
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    shaped = {
        "tokens": tokens,
        "token_logprobs": [entry.logprob for entry in entries],
        "top_logprobs": None,
        "text_offset": offsets,
    }
    return shaped, offset
