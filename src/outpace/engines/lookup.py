"""Guesses at what a sequence says next: what followed the last time it, or an earlier answer, said this. Pure.

Prompt look-up (Saxena 2023, "Prompt Lookup Decoding"), with two things decided at each step instead of once: which run
of tokens counts as a match, and how many tokens to guess behind it. A guess is as long as makes the most expected
tokens per second, from how often guesses of its kind were right in this sequence and from what a step of so many
tokens takes on this machine (Leviathan et al. 2023, arXiv 2211.17192, section 3.4). No gain, no guess.
"""

from bisect import bisect_left
from collections.abc import Sequence

import msgspec

from outpace.engines.lookup_memory import Memory, Text

# Runs of tokens that are looked for in the text itself, longest first. Chosen by replaying answers (docs/lab/LOG.md,
# 2026-11-28 and 2026-11-29, "earlier answers"), and so are the numbers below.
_RUNS = (8, 5, 3, 2, 1)
# Right tokens that a kind of match is taken to have had, beside one wrong one, before the first guess.
_OWN_RIGHT = (9.0, 4.0, 2.0, 0.5, 0.2)
_MEMORY_RIGHT = (2.0, 2.0, 0.5, 0.6)
# What a draft model of the same family says is right in 60 to 80 % of tokens (Leviathan et al. 2023, table 2).
_DRAFT_RIGHT = 2.0
_DRAFT = len(_OWN_RIGHT) + len(_MEMORY_RIGHT)
_UNKNOWN = -1
# What earlier guesses of a sequence still count after one more.
_FADE = 0.9
MOST_GUESSED = 23
# The first guess in a step of several sequences moves all of them to the graph that guesses: it must promise more than
# what the times of steps may be off.
_FIRST_GAIN = 1.05
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
            return _between(self.tokens, seconds, num_tokens)
        per_token_s = (seconds[-1] - seconds[0]) / (self.tokens[-1] - self.tokens[0])
        return seconds[-1] + per_token_s * (num_tokens - self.tokens[-1])

    def reckoned(self, later: tuple[int, ...]) -> "StepCosts":
        """With points for longer steps, on the line through the first and the last one."""
        return StepCosts(
            tokens=(*self.tokens, *later),
            changed_s=(*self.changed_s, *map(self.of, later)),
            steady_s=(*self.steady_s, *(self.of(each, is_steady=True) for each in later)),
        )

    def seen(self, num_tokens: int, took_s: float, *, is_steady: bool) -> "StepCosts":
        """After a step of so many tokens took so long.

        The points next to it follow most. All others follow: a machine that is slower now is slower for them too,
        and what is not tried any more must not be judged by how the machine was.
        """
        off = took_s / self.of(num_tokens, is_steady=is_steady)
        off = min(_MOST_OFF, max(1 / _MOST_OFF, off))
        all_by = off**_ALL_FOLLOW
        changed_s, steady_s = (
            [point_s * all_by for point_s in own] for own in (self.changed_s, self.steady_s)
        )
        nearer = steady_s if is_steady else changed_s
        for at, share in _beside(self.tokens, num_tokens):
            nearer[at] *= off ** (_NEXT_FOLLOW * share)
        return StepCosts(tokens=self.tokens, changed_s=tuple(changed_s), steady_s=tuple(steady_s))


def _beside(xs: Sequence[int], at: int) -> list[tuple[int, float]]:
    """The points on both sides of `at`, the nearer the more of it; the end's beyond it."""
    above = bisect_left(xs, at)
    if above == 0 or above == len(xs):
        return [(min(above, len(xs) - 1), 1.0)]
    low, high = xs[above - 1], xs[above]
    share = (at - low) / (high - low)
    return [(above - 1, 1.0 - share), (above, share)]


def _between(xs: Sequence[int], ys: Sequence[float], at: int) -> float:
    """On the line between the points around `at`; asked hundreds of times a step, so not by `_beside` or numpy."""
    above = bisect_left(xs, at)
    if above == 0 or above == len(xs):
        return ys[min(above, len(xs) - 1)]
    low, high = xs[above - 1], xs[above]
    return ys[above - 1] + (ys[above] - ys[above - 1]) * (at - low) / (high - low)


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
    """What else is in the step: tokens to compute, tokens that sequences get out of it, and whether any is a guess.

    `drafted_s` is what a draft model takes for them before the step.
    """

    computed: int = 0
    expected: float = 0.0
    has_guesses: bool = False
    drafted_s: float = 0.0


class Guess(msgspec.Struct, frozen=True):
    """Tokens that may come next, and how many the sequence gets from the step on average.

    Where `drafted_s` is not 0 a draft model is to say them, which takes so long, and only their number is known.
    """

    tokens: list[int] = []
    expected: float = 1.0
    drafted_s: float = 0.0


class _Candidate(msgspec.Struct, frozen=True):
    """Tokens that may come next, and the kind of match that says so."""

    kind: int
    tokens: list[int]


class Lookup:
    """One sequence: its tokens so far, earlier answers to the same key, and how guesses of each kind fared in it."""

    def __init__(self, tokens: Sequence[int], memory: Memory | None = None) -> None:
        self._text = Text(_RUNS)
        self._memory = memory
        self._right = [*_OWN_RIGHT, *_MEMORY_RIGHT, _DRAFT_RIGHT]
        self._tried = [right + 1.0 for right in self._right]
        self._kind = 0
        self.add(tokens)

    def add(self, tokens: Sequence[int]) -> None:
        """What was said in addition."""
        self._text.add(tokens)

    def guess(self, times: StepTimes, others: Others, room: int, draft_step_s: float = 0.0) -> "Guess":
        """At most `room` tokens that may come next.

        With a draft model, which takes `draft_step_s` for each token, it may be asked instead: `Guess.drafted_s`.
        """
        plain_s = others.drafted_s + times.of(others.computed + 1, has_guesses=others.has_guesses)
        best, guess = (others.expected + 1.0) / plain_s, Guess()
        if others.computed and not others.has_guesses:
            best *= _FIRST_GAIN
        most = min(room, MOST_GUESSED)
        candidates = self._candidates(most)
        if draft_step_s:
            candidates.append(_Candidate(_DRAFT, [_UNKNOWN] * most))
        for candidate in candidates:
            expected, all_right = 1.0, 1.0
            chance = self._right[candidate.kind] / self._tried[candidate.kind]
            for guessed in range(1, len(candidate.tokens) + 1):
                all_right *= chance
                expected += all_right
                step_s = times.of(others.computed + 1 + guessed, has_guesses=True)
                # The draft model's steps are the same for all sequences.
                drafted_s = guessed * draft_step_s if candidate.kind == _DRAFT else 0.0
                rate = (others.expected + expected) / (step_s + max(others.drafted_s, drafted_s))
                if rate > best:
                    best, self._kind = rate, candidate.kind
                    guess = Guess(candidate.tokens[:guessed], expected, drafted_s)
        return guess

    def judge(self, guessed: int, right: int) -> None:
        """How many of the last guess's tokens were right; those behind the first wrong one were not tried."""
        if not guessed:
            return
        tried = right + (right < guessed)
        self._right[self._kind] = _FADE * self._right[self._kind] + right
        self._tried[self._kind] = _FADE * self._tried[self._kind] + tried

    def _candidates(self, most: int) -> list[_Candidate]:
        """What followed the longest run in the text, and what did in earlier answers."""
        candidates = [_Candidate(*self._text.following(most))]
        if self._memory is not None:
            kind, tokens = self._memory.following(self._text.tokens, most)
            candidates.append(_Candidate(len(_RUNS) + kind, tokens))
        return candidates
