"""Guesses at what a sequence says next: what followed the last time it said what it says now. Pure.

Prompt look-up (Saxena 2023, "Prompt Lookup Decoding"), with two things decided at each step instead of once: which run
of tokens counts as a match, and how many tokens to guess behind it. A guess is as long as makes the most expected
tokens per second, from how often guesses of its kind were right in this sequence and from what a step of so many
tokens takes on this machine (Leviathan et al. 2023, arXiv 2211.17192, section 3.4). No gain, no guess.
"""

from collections.abc import Sequence

import msgspec
import numpy as np

# Runs of tokens that are looked for, longest first. One token alone is found by chance all over a text. Chosen by
# replaying answers (docs/lab/LOG.md, 2026-11-28), and so are the numbers below.
_RUNS = (5, 3, 2)
# Right and wrong tokens that a kind of match is taken to have had before the first guess.
_BEFORE = ((6.0, 1.0), (2.0, 1.0), (0.5, 1.0))
# What earlier guesses of a sequence still count after one more.
_FADE = 0.9
MOST_GUESSED = 23
# How much of what a step was off moves every point, how much more those next to it, and the most that is believed.
_ALL_FOLLOW, _NEXT_FOLLOW, _MOST_OFF = 0.1, 0.03, 2.0


class StepCosts(msgspec.Struct, frozen=True, kw_only=True):
    """What a step of the engine takes by the tokens in it: measured points, rising, straight lines between them."""

    tokens: tuple[int, ...]
    # Behind a step of another length, for which the engine prepares anew; and behind one of the same length.
    changed_s: tuple[float, ...]
    steady_s: tuple[float, ...]

    def of(self, num_tokens: int, *, is_steady: bool = False) -> float:
        """Seconds; beyond the last point by the line through the first and the last one."""
        seconds = self.steady_s if is_steady else self.changed_s
        if num_tokens <= self.tokens[-1] or len(self.tokens) == 1:
            return float(np.interp(num_tokens, self.tokens, seconds))
        per_token_s = (seconds[-1] - seconds[0]) / (self.tokens[-1] - self.tokens[0])
        return seconds[-1] + per_token_s * (num_tokens - self.tokens[-1])

    def seen(self, num_tokens: int, took_s: float, *, is_steady: bool) -> "StepCosts":
        """After a step of so many tokens took so long.

        The points next to it follow most. All others follow: a machine that is slower now is slower for them too,
        and what is not tried any more must not be judged by how the machine was.
        """
        off = took_s / self.of(num_tokens, is_steady=is_steady)
        off = min(_MOST_OFF, max(1 / _MOST_OFF, off))
        # Shares of the points on both sides; the last point's beyond it.
        near = [float(np.interp(num_tokens, self.tokens, unit)) for unit in np.eye(len(self.tokens))]
        moved = {
            name: tuple(
                point_s * off ** (_ALL_FOLLOW + (_NEXT_FOLLOW * share if is_steady == steady else 0.0))
                for point_s, share in zip(points_s, near, strict=True)
            )
            for name, points_s, steady in (
                ("changed_s", self.changed_s, False),
                ("steady_s", self.steady_s, True),
            )
        }
        return StepCosts(tokens=self.tokens, **moved)


class StepTimes(msgspec.Struct, frozen=True, kw_only=True):
    """What the next step takes: on the graph for steps that guess nothing, and on the one for those that guess.

    Where both are one, `plain` and `guessing` are the same figures.
    """

    plain: StepCosts
    guessing: StepCosts
    # Tokens of the last step on the graph that guesses.
    last: int = 0

    def of(self, num_tokens: int, *, has_guesses: bool) -> float:
        """Seconds of a step of so many tokens."""
        if not has_guesses:
            return self.plain.of(num_tokens, is_steady=True)
        return self.guessing.of(self.length(num_tokens), is_steady=self.length(num_tokens) == self.last)

    def length(self, num_tokens: int) -> int:
        """To how many tokens a step that guesses is filled up: one as long as the last may be the quicker one."""
        if num_tokens >= self.last:
            return num_tokens
        is_longer = self.guessing.of(self.last, is_steady=True) <= self.guessing.of(num_tokens)
        return self.last if is_longer else num_tokens


class Others(msgspec.Struct, frozen=True):
    """What else is in the step: tokens to compute, tokens that sequences get out of it, and whether any is a guess."""

    computed: int = 0
    expected: float = 0.0
    has_guesses: bool = False


class Lookup:
    """One sequence: its tokens so far, where each run of them was last followed by what, and how guesses fared."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens: list[int] = []
        # Where what followed a run begins; the last place wins.
        self._after: dict[tuple[int, ...], int] = {}
        self._right = [right for right, _ in _BEFORE]
        self._tried = [right + wrong for right, wrong in _BEFORE]
        self._kind = 0
        self.add(tokens)

    def add(self, tokens: Sequence[int]) -> None:
        """What was said in addition."""
        for token in tokens:
            end = len(self._tokens)
            for length in _RUNS:
                if end >= length:
                    self._after[tuple(self._tokens[end - length :])] = end
            self._tokens.append(token)

    def guess(self, times: StepTimes, others: Others, room: int) -> tuple[list[int], float]:
        """At most `room` tokens that may come next, and how many this sequence gets from the step on average."""
        start = self._match()
        if start is None:
            return [], 1.0
        chance = self._right[self._kind] / self._tried[self._kind]
        most = min(room, MOST_GUESSED, len(self._tokens) - start)
        best, length, gained = 0.0, 0, 1.0
        expected, all_right = 1.0, 1.0
        for guessed in range(most + 1):
            has_guesses = bool(guessed) or others.has_guesses
            step_s = times.of(others.computed + 1 + guessed, has_guesses=has_guesses)
            rate = (others.expected + expected) / step_s
            if rate > best:
                best, length, gained = rate, guessed, expected
            all_right *= chance
            expected += all_right
        return self._tokens[start : start + length], gained

    def judge(self, guessed: int, right: int) -> None:
        """How many of the last guess's tokens were right; those behind the first wrong one were not tried."""
        if not guessed:
            return
        tried = right + (right < guessed)
        self._right[self._kind] = _FADE * self._right[self._kind] + right
        self._tried[self._kind] = _FADE * self._tried[self._kind] + tried

    def _match(self) -> int | None:
        for kind, length in enumerate(_RUNS):
            start = self._after.get(tuple(self._tokens[-length:]))
            if start is not None:
                self._kind = kind
                return start
        return None
