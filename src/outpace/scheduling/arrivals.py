"""How fast requests arrive and how long they are, from what was seen lately. State without a clock or I/O."""

import math
from collections import deque

from outpace.scheduling.attainment import Traffic

# A short window counts as far as chance does not explain it, so that a burst is seen at once.
_SHORT_WINDOWS_S = (3.0, 10.0)
_LONG_WINDOW_S = 60.0
# Standard deviations of a Poisson count.
_CHANCE = 1.5
_WEIGHT = 0.05


class Arrivals:
    """Arrivals of the last minute, by second."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int]] = deque()

    def add(self, count: int, now_s: float) -> None:
        """So many arrived now."""
        if count <= 0:
            return
        second = int(now_s)
        if self._seconds and self._seconds[-1][0] == second:
            self._seconds[-1] = (second, self._seconds[-1][1] + count)
        else:
            self._seconds.append((second, count))

    def per_s(self, now_s: float) -> float:
        """The rate that capacity should be held for."""
        while self._seconds and now_s - self._seconds[0][0] > _LONG_WINDOW_S:
            self._seconds.popleft()
        short = [_certain(self._within(window_s, now_s)) / window_s for window_s in _SHORT_WINDOWS_S]
        return max(*short, self._within(_LONG_WINDOW_S, now_s) / _LONG_WINDOW_S)

    def _within(self, window_s: float, now_s: float) -> int:
        return sum(count for second, count in self._seconds if now_s - second <= window_s)


def _certain(count: int) -> float:
    return max(0.0, count - _CHANCE * math.sqrt(count))


class Lengths:
    """Mean lengths of requests that ended, the newest counting most."""

    def __init__(self, input_tokens: float, output_tokens: float) -> None:
        self._input, self._output = input_tokens, output_tokens

    def add(self, input_tokens: int, output_tokens: int) -> None:
        """A request of these lengths ended."""
        self._input += _WEIGHT * (input_tokens - self._input)
        self._output += _WEIGHT * (output_tokens - self._output)

    def traffic(self, requests_per_s: float) -> Traffic:
        """Such requests at a rate."""
        return Traffic(
            requests_per_s=requests_per_s, input_tokens=self._input, output_tokens=max(1.0, self._output)
        )
