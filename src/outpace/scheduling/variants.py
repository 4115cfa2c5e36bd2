"""Which variant of a deployment serves: by what was measured of each, how many are served now, and their prompts. Pure.

One engine may write a single answer faster and another read a prompt many times faster, so what is compared is the
time of whole requests: output tokens at the measured speed, and the prompt at the measured rate of reading.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from outpace.values.snapshot import GuessGain

Speeds = Sequence[tuple[int, float]]

# Another variant must promise this much more, and fewer requests count only when there were no more for so long:
# measurements are noisy and every switch leaves requests of both on the same cores. More count at once: who waits for
# the variant that is good at few would have a whole burst crawl there.
SWITCH_GAIN = 1.1
FEWER_AFTER_S = 5.0
# A request that is alone has the machine for itself wherever it goes; what it finds cached is where the last one was.
ALONE_GAIN = 1.03
# Prompts shorter than those of the measurement make a token cheaper, but not free.
_LEAST_SHARE = 0.3


class Option(NamedTuple):
    """A variant that could serve now."""

    id: str
    num_replicas: int
    # Output tokens/s of one replica by requests at once, ascending; empty: not measured.
    speeds: Speeds
    # Prompt tokens read per second by one replica; None: not measured.
    prefill_tokens_per_s: float | None = None
    # Prompt tokens that were read per output token while `speeds` were measured.
    read_per_output: float = 0.0
    # What guesses gain on top, by load and length of prompts.
    guess_gains: Sequence[GuessGain] = ()


class Mix(NamedTuple):
    """What requests are like: prompt tokens to be read for each output token, and prompt tokens of a request."""

    read_per_output: float
    input_tokens: float = 0.0


def mix_of(input_tokens: float, output_tokens: float) -> Mix:
    """Of requests with these mean lengths; what is cached is not read."""
    return Mix(input_tokens / max(1.0, output_tokens), input_tokens)


def speed_at(speeds: Speeds, users: float) -> float:
    """Output tokens/s of one replica at this many requests at once; between measurements linear, beyond them flat."""
    return _between(speeds, users) if speeds else 0.0


def _between(points: Sequence[tuple[float, float]], at: float) -> float:
    above = bisect_left(points, at, key=lambda point: point[0])
    if above == 0:
        return points[0][1]
    if above == len(points):
        return points[-1][1]
    (low, first), (high, second) = points[above - 1], points[above]
    # Of two figures for the same the later one counts.
    return first + (second - first) * (at - low) / (high - low) if high > low else second


class Peak:
    """The most requests at once within the last `FEWER_AFTER_S`. Time is an argument."""

    def __init__(self) -> None:
        # Falling counts; each holds until it is too old or as many come again.
        self._counts: deque[tuple[float, int]] = deque()

    def seen(self, users: int, now_s: float) -> int:
        """So many are served now; the most of late, these among them."""
        while self._counts and self._counts[-1][1] <= users:
            self._counts.pop()
        self._counts.append((now_s, users))
        while now_s - self._counts[0][0] > FEWER_AFTER_S:
            self._counts.popleft()
        return self._counts[0][1]


def choose(
    options: Sequence[Option], users: float, current: str | None, mix: Mix | None = None
) -> str | None:
    """The variant that serves `users` at once best; None when there is nothing to choose by.

    `current` stays unless another is clearly better.
    """
    return _chosen(options, users, current, mix, SWITCH_GAIN)


def choose_alone(options: Sequence[Option], current: str | None, mix: Mix) -> str | None:
    """The variant for one request like `mix` while no other one runs; None when there is nothing to choose by."""
    return _chosen(options, 1, current, mix, ALONE_GAIN)


def _chosen(
    options: Sequence[Option], users: float, current: str | None, mix: Mix | None, gain: float
) -> str | None:
    measured = [option for option in options if option.speeds]
    if not measured:
        return None
    if any(option.prefill_tokens_per_s is None for option in measured):
        mix = None
    best = max(measured, key=lambda option: promised(option, users, mix))
    mine = next((option for option in measured if option.id == current), None)
    if mine is None or promised(best, users, mix) >= gain * promised(mine, users, mix):
        return best.id
    return mine.id


def promised(option: Option, users: float, mix: Mix | None = None) -> float:
    """Output tokens/s of all replicas of a variant together while `users` are served; reading their prompts included.

    Without a mix, or without a measured rate of reading, prompts count as they were when speeds were measured.
    """
    each = max(1.0, users / option.num_replicas)
    speed = speed_at(option.speeds, each)
    if mix is None or not option.prefill_tokens_per_s or not speed:
        return option.num_replicas * speed
    measured_s = 1.0 / speed
    reading_s = (mix.read_per_output - option.read_per_output) / option.prefill_tokens_per_s
    request_s = max(measured_s + reading_s, _LEAST_SHARE * measured_s)
    return option.num_replicas * gain_at(option.guess_gains, each, mix) / request_s


def gain_at(gains: Sequence[GuessGain], users: float, mix: Mix) -> float:
    """What guesses gain on requests like `mix` at this load; 1.0 where that was not measured, or is a loss.

    A long prompt is likelier copied from than a short one: between the lengths that were measured the gain is linear,
    beyond them flat. Guesses that lose are not made.
    """
    loads = [gain.users for gain in gains if gain.users >= users]
    if not loads:
        return 1.0
    measured = sorted((gain.prompt_tokens, gain.gain) for gain in gains if gain.users == min(loads))
    return max(1.0, _between(measured, mix.input_tokens))


def cross_over(main: Option, other: Option, gain: float = SWITCH_GAIN, mix: Mix | None = None) -> int | None:
    """The fewest users from which on `other` promises `gain` times what `main` does; None: not at the highest load.

    The highest is the one up to which both were measured: a sweep that ended early says nothing about more.
    """
    if not main.speeds or not other.speeds:
        return None
    if main.prefill_tokens_per_s is None or other.prefill_tokens_per_s is None:
        mix = None
    users = min(main.num_replicas * main.speeds[-1][0], other.num_replicas * other.speeds[-1][0])
    found = None
    while users >= 1 and promised(other, users, mix) >= gain * promised(main, users, mix):
        found, users = users, users - 1
    return found
