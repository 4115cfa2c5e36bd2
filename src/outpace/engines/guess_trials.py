"""Whether steps are better with guesses or without, by how many sequences are in them: tried in turns. Pure.

What a guess costs beside others cannot be reckoned well enough: to look for guesses takes time itself, steps that guess
run on weights of their own that the processor's cache must hold, and where a processor computes slowly the tokens of a
wrong guess are paid by everybody. So blocks of steps with and without guesses follow each other, and the better way is
kept until it is tried again.
"""

import math

# Steps of a block: a block of each kind is a pair, and the next pair begins with the other kind.
BLOCK_STEPS = 8
# Pairs before anything is believed; later ones move the mean by as much as one of so many.
_FIRST_PAIRS, _MOST_PAIRS = 3, 8
# Blocks between two pairs: many where the outcome is clear.
_REST_BLOCKS, _CLEAR_REST_BLOCKS, _CLEAR_GAIN = 12, 48, math.log(1.2)
# Guesses beside others must be so much better: what they cost other processes is not seen here. Alone they must not be
# worse: who edits text is better off by more than who does not is worse.
_LEAST_GAIN, _LEAST_GAIN_ALONE = math.log(1.02), math.log(0.98)


class Trials:
    """One trial per size of a step: 1 sequence, 2 to 3, 4 to 7, 8 to 15, and so on."""

    def __init__(self) -> None:
        self._of: dict[int, _Trial] = {}

    def allows(self, num_sequences: int) -> bool:
        """Guesses may be made in the next step of so many sequences."""
        return self._trial(num_sequences).allows

    def took(self, num_sequences: int, gain: float) -> None:
        """Such a step got `gain` times the tokens per second that one without guesses is reckoned to get."""
        self._trial(num_sequences).took(gain)

    def _trial(self, num_sequences: int) -> "_Trial":
        size = num_sequences.bit_length()
        return self._of.setdefault(size, _Trial(is_alone=num_sequences < 2))


class _Trial:
    """Blocks of steps of one size. Who is alone begins with guesses, and is tried later."""

    def __init__(self, *, is_alone: bool) -> None:
        self.allows = is_alone
        self._least_gain = _LEAST_GAIN_ALONE if is_alone else _LEAST_GAIN
        self._num_steps = 0
        self._sum = 0.0
        self._num_pairs = 0
        # Mean logarithm of the gain with guesses over that without, over pairs.
        self._gain = 0.0
        # Of the pair that is tried: gains by kind. None between pairs.
        self._pair: dict[bool, float] | None = None if is_alone else {}
        self._rest_blocks = _REST_BLOCKS if is_alone else 0

    def took(self, gain: float) -> None:
        self._num_steps += 1
        self._sum += math.log(gain)
        if self._num_steps == BLOCK_STEPS:
            self._end_block(self._sum / BLOCK_STEPS)
            self._num_steps, self._sum = 0, 0.0

    def _end_block(self, gain: float) -> None:
        if self._pair is None:
            self._rest_blocks -= 1
            if self._rest_blocks <= 0:
                # The kept way has just run: a pair begins with the other.
                self._pair, self.allows = {}, not self.allows
            return
        self._pair[self.allows] = gain
        if len(self._pair) < 2:
            self.allows = not self.allows
            return
        self._judge(self._pair[True] - self._pair[False])
        if self._num_pairs < _FIRST_PAIRS:
            self._pair = {}
            return
        self._pair, self.allows = None, self._gain > self._least_gain
        is_clear = abs(self._gain) > _CLEAR_GAIN
        self._rest_blocks = _CLEAR_REST_BLOCKS if is_clear else _REST_BLOCKS

    def _judge(self, gain: float) -> None:
        self._num_pairs += 1
        self._gain += (gain - self._gain) / min(self._num_pairs, _MOST_PAIRS)
