"""What was said before: in one text, and in earlier answers to the same key. Pure.

An answer often begins, ends and reasons as an earlier one did ("The code is correct. It uses ..."), so what followed
there is worth a guess where the text itself holds none (He et al. 2023, "REST", arXiv 2311.08252). Only answers to the
same key count: how fast an answer comes must tell nobody what others were told.
"""

from array import array
from collections import OrderedDict
from collections.abc import Sequence

# Runs of tokens that are looked for, longest first.
MEMORY_RUNS = (5, 3, 2, 1)
# Of one key: so many of the last tokens, and places for so many runs of each length. 320 KiB in all.
_TOKENS = 1 << 14
_SLOTS = 1 << 14
# Keys that are remembered, those that asked last.
_KEYS = 64
_NOTHING = -1


class Text:
    """Tokens one after the other, and what followed each run of them the last time."""

    def __init__(self, runs: tuple[int, ...]) -> None:
        self._runs = runs
        self.tokens: list[int] = []
        # Where what followed a run begins; the last place wins.
        self._after: dict[tuple[int, ...], int] = {}

    def add(self, tokens: Sequence[int]) -> None:
        """What comes in addition."""
        for token in tokens:
            end = len(self.tokens)
            for length in self._runs:
                if end >= length:
                    self._after[tuple(self.tokens[end - length :])] = end
            self.tokens.append(token)

    def following(self, most: int) -> tuple[int, list[int]]:
        """Which of the runs the text ends with was said before, and at most `most` tokens that followed it there."""
        for kind, length in enumerate(self._runs):
            start = self._after.get(tuple(self.tokens[-length:]))
            if start is not None:
                return kind, self.tokens[start : start + most]
        return 0, []


class Memory:
    """The last answers to one key. Of two runs that meet in one place the later counts; a reader compares."""

    def __init__(self) -> None:
        self._tokens = array("i", [_NOTHING]) * _TOKENS
        self._places = [array("i", [0]) * _SLOTS for _ in MEMORY_RUNS]
        self._end = 0

    def learn(self, answer: Sequence[int]) -> None:
        """An answer that has ended, with some tokens before it: what it begins with is worth a guess, too."""
        for at, token in enumerate(answer):
            for length, places in zip(MEMORY_RUNS, self._places, strict=True):
                if at >= length:
                    places[hash(tuple(answer[at - length : at])) % _SLOTS] = self._end
            self._put(token)
        self._put(_NOTHING)

    def following(self, text: Sequence[int], most: int) -> tuple[int, list[int]]:
        """Which of the runs that `text` ends with was said before, and at most `most` tokens that followed it there."""
        for kind, (length, places) in enumerate(zip(MEMORY_RUNS, self._places, strict=True)):
            run = list(text[-length:])
            start = places[hash(tuple(run)) % _SLOTS]
            if self._between(start - length, start) == run:
                followed = self._between(start, start + most)
                end = followed.index(_NOTHING) if _NOTHING in followed else most
                return kind, followed[:end]
        return 0, []

    def _put(self, token: int) -> None:
        self._tokens[self._end] = token
        self._end = (self._end + 1) % _TOKENS

    def _between(self, start: int, end: int) -> list[int]:
        return [self._tokens[at % _TOKENS] for at in range(start, end)]


class Memories:
    """One memory per key; the one that was not asked for longest is forgotten first."""

    def __init__(self) -> None:
        self._of: OrderedDict[str, Memory] = OrderedDict()

    def of(self, tenant: str) -> Memory:
        """The memory of one key."""
        memory = self._of.setdefault(tenant, Memory())
        self._of.move_to_end(tenant)
        if len(self._of) > _KEYS:
            self._of.popitem(last=False)
        return memory
