"""A draft model beside the graph that is served: what a smaller model of the same family would say next.

It reads what the served model reads, in the same pieces, and says its likeliest tokens one step at a time, for all
sequences together. What it was right about is kept; the rest is written over (Leviathan et al. 2023, arXiv 2211.17192).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from outpace.engines.lookup import MOST_GUESSED
from outpace.engines.openvino_config import OpenVinoConfig
from outpace.engines.openvino_graph import Graph, Logits, Part
from outpace.engines.openvino_pages import Seat, Tokens
from outpace.values.clock import SystemClock

_CLOCK = SystemClock()
_TIMED_ROUNDS = 4
# What a step takes is learnt from every step.
_LEARNT = 0.05


class _Reader:
    """One sequence at the draft model: its pages, and the tokens whose keys and values are in them."""

    def __init__(self, seat: Seat, prompt: Tokens) -> None:
        self.seat = seat
        self.read: list[int] = prompt[: seat.known_tokens].tolist()

    def go_back(self, tokens: Sequence[int]) -> None:
        """Forget from the first token on that was not said after all; the last one is always read anew."""
        most = min(len(self.read), len(tokens) - 1)
        # A wrong guess is among the last ones: nothing before them is compared again.
        start = max(0, most - MOST_GUESSED - 1)
        same = start
        while same < most and self.read[same] == tokens[same]:
            same += 1
        del self.read[same:]


class Draft:
    """The draft model's sequences, by the numbers that they have at the served one. Not for threads."""

    def __init__(self, config: OpenVinoConfig, folder: Path) -> None:
        self._graph = Graph(config, folder)
        self._step_tokens = config.step_tokens
        self._readers: dict[int, _Reader] = {}
        # Of one token; what more sequences in a step add is small.
        self.step_s = min(self._timed_s() for _ in range(_TIMED_ROUNDS))

    def begin(self, number: int, prompt: Tokens, num_tokens: int, tenant: str) -> None:
        """A sequence of `num_tokens` at most; without pages for it nothing is guessed there."""
        seat = self._graph.pages.take(prompt, num_tokens, tenant)
        if seat is not None:
            self._readers[number] = _Reader(seat, prompt)

    def end(self, number: int) -> None:
        """The sequence is over."""
        reader = self._readers.pop(number, None)
        if reader is not None:
            self._graph.pages.give_back(reader.seat)

    def has(self, number: int) -> bool:
        """It can guess for this sequence."""
        return number in self._readers

    def follow(self, number: int, tokens: Tokens) -> None:
        """Read these first tokens of a sequence, as far as they are not read yet."""
        reader = self._readers.get(number)
        while reader is not None and len(reader.read) < len(tokens):
            piece = tokens[len(reader.read) : len(reader.read) + self._step_tokens]
            self._graph.run([_part(reader, piece)])
            reader.read += piece.tolist()

    def guess(self, wanted: Mapping[int, tuple[Sequence[int], int]]) -> dict[int, list[int]]:
        """By number of a sequence with these tokens so far: as many of its likeliest next ones as are wanted."""
        guesses: dict[int, list[int]] = {number: [] for number in wanted}
        unread: dict[int, Sequence[int]] = {}
        for number, (tokens, _) in wanted.items():
            self._readers[number].go_back(tokens)
            unread[number] = tokens[len(self._readers[number].read) :]
        while unread:
            rows = self._step(unread)
            unread = {}
            for number, row in rows.items():
                token = int(row[-1].argmax())
                guesses[number].append(token)
                if len(guesses[number]) < wanted[number][1]:
                    unread[number] = [token]
        return guesses

    def _step(self, unread: Mapping[int, Sequence[int]]) -> dict[int, Logits]:
        parts = [
            _part(self._readers[number], np.array(own, dtype=np.int64)) for number, own in unread.items()
        ]
        began_s = _CLOCK.monotonic_s()
        rows = self._graph.run(parts)
        took_s = _CLOCK.monotonic_s() - began_s
        self.step_s += _LEARNT * (min(took_s, 2 * self.step_s) - self.step_s)
        for number, own in unread.items():
            self._readers[number].read += own
        return dict(zip(unread, rows, strict=True))

    def _timed_s(self) -> float:
        began_s = _CLOCK.monotonic_s()
        self._graph.run([Part(tokens=np.zeros(1, dtype=np.int64), past=0, pages=(self._graph.spare_page,))])
        return _CLOCK.monotonic_s() - began_s


def _part(reader: _Reader, tokens: Tokens) -> Part:
    return Part(tokens=tokens, past=len(reader.read), pages=reader.seat.pages)
