"""Which variant of a deployment serves, by what was measured of each and by how many are served now. Pure."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

Speeds = Sequence[tuple[int, float]]

# Another variant must promise this much more, and the present one have served this long: measurements are noisy and
# every switch leaves requests of both on the same cores.
SWITCH_GAIN = 1.1
SWITCH_AFTER_S = 5.0


class Option(NamedTuple):
    """A variant that could serve now."""

    id: str
    num_replicas: int
    # Output tokens/s of one replica by requests at once, ascending; empty: not measured.
    speeds: Speeds


def speed_at(speeds: Speeds, users: float) -> float:
    """Output tokens/s of one replica at this many requests at once; between measurements linear, beyond them flat."""
    if not speeds:
        return 0.0
    at = bisect_left(speeds, users, key=lambda point: point[0])
    if at == 0:
        return speeds[0][1]
    if at == len(speeds):
        return speeds[-1][1]
    (below, slow), (above, fast) = speeds[at - 1], speeds[at]
    return slow + (fast - slow) * (users - below) / (above - below)


def choose(options: Sequence[Option], users: float, current: str | None, served_s: float) -> str | None:
    """The variant that serves `users` at once best; None when there is nothing to choose by.

    `current` has served for `served_s`; it stays unless another is clearly better and it had its time.
    """
    measured = [option for option in options if option.speeds]
    if not measured:
        return None
    best = max(measured, key=lambda option: promised(option, users))
    mine = next((option for option in measured if option.id == current), None)
    if mine is None or mine is best:
        return best.id
    if served_s < SWITCH_AFTER_S or promised(best, users) < SWITCH_GAIN * promised(mine, users):
        return mine.id
    return best.id


def promised(option: Option, users: float) -> float:
    """Output tokens/s of all replicas of a variant together while `users` are served."""
    return option.num_replicas * speed_at(option.speeds, max(1.0, users / option.num_replicas))


def cross_over(main: Option, other: Option, gain: float = SWITCH_GAIN) -> int | None:
    """The fewest users from which on `other` promises `gain` times what `main` does; None: not at the highest load.

    The highest is the one up to which both were measured: a sweep that ended early says nothing about more.
    """
    if not main.speeds or not other.speeds:
        return None
    users = min(main.num_replicas * main.speeds[-1][0], other.num_replicas * other.speeds[-1][0])
    found = None
    while users >= 1 and promised(other, users) >= gain * promised(main, users):
        found, users = users, users - 1
    return found
