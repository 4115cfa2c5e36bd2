"""The numbers that the planner is held to, each with its goal and what left-out measurements say."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from outpace.planner.calibration import Calibration

# What is left out together, as people read it; the first is the everyday case, the last the furthest.
LEFT_OUT = {
    "near": "setup",
    "device": "device",
    "version": "engine version",
    "model": "model",
    "family": "device family",
}
# Who ranks devices that were left out leaves out both of a pair.
_BOTH_LEFT_OUT = {"device": "both devices", "family": "both device families"}
_LEAST_HELD, _MOST_HELD = 0.75, 0.88
_LEAST_RANKED = 0.90
_QUANTITIES = ("throughput", "itl", "ttft")
# Promise, figure, goal: an absolute relative error of at most the goal.
_ERRORS = (
    ("throughput", "median", 0.15),
    ("throughput", "mean", 0.22),
    ("itl mean", "median", 0.12),
    ("itl mean", "mean", 0.20),
    ("ttft below saturation", "median", 0.30),
)
_FAMILY_MEDIAN = 0.22


@dataclass(frozen=True)
class Mark:
    """A number to reach: over which rows, the goal in words, the value (a share or seconds), and whether it is met."""

    name: str
    left_out: str
    goal: str
    value: float
    rows: int
    is_met: bool


def marks(calibration: Calibration) -> list[Mark]:
    """Every number of left-out measurements, scheme by scheme."""
    found = [mark for scheme in LEFT_OUT for mark in _of_scheme(calibration, scheme)]
    return sorted(found, key=lambda mark: mark.name)


def _of_scheme(calibration: Calibration, scheme: str) -> Iterator[Mark]:
    where = LEFT_OUT[scheme]
    for promise, figure, goal in _ERRORS:
        figures = calibration.accuracy.get(f"{scheme}/{promise}")
        if figures:
            is_family = (scheme, promise, figure) == ("family", "throughput", "median")
            limit = _FAMILY_MEDIAN if is_family else goal
            value, rows = figures[figure], int(figures["rows"])
            yield Mark(f"{promise}, {figure} error", where, f"≤ {limit:.0%}", value, rows, value <= limit)
    for quantity in _QUANTITIES:
        yield from _interval(calibration, scheme, quantity)
        yield from _ranking(calibration, scheme, quantity)


def _interval(calibration: Calibration, scheme: str, quantity: str) -> Iterator[Mark]:
    held = calibration.coverage.get(scheme, {}).get(quantity)
    if held is not None:
        is_met = _LEAST_HELD <= held <= _MOST_HELD
        goal = f"{_LEAST_HELD:.0%}-{_MOST_HELD:.0%}"
        yield Mark(f"80 % interval holds {quantity}", LEFT_OUT[scheme], goal, held, 0, is_met)


def _ranking(calibration: Calibration, scheme: str, quantity: str) -> Iterator[Mark]:
    right, pairs = calibration.ranked.get(scheme, {}).get(quantity, (0, 0))
    if pairs:
        share, goal = right / pairs, f"≥ {_LEAST_RANKED:.0%}"
        is_met = share >= _LEAST_RANKED
        where = _BOTH_LEFT_OUT.get(scheme, LEFT_OUT[scheme])
        yield Mark(f"faster device by {quantity}", where, goal, share, pairs, is_met)


@dataclass(frozen=True)
class Scatter:
    """Errors of a perfect memory of a run's siblings, and the model's on the same runs, as shares."""

    name: str
    siblings: str
    rows: int
    median: float
    mean: float
    own_median: float
    own_mean: float


# Which siblings a run is compared with, by the scheme that leaves it out.
SIBLINGS = {"near": "the same run again", "version": "the same run on other versions"}


def scatters(calibration: Calibration) -> list[Scatter]:
    """The data's own scatter: what nobody can predict better, and what an unseen version leaves open."""
    return [
        Scatter(
            name=key.partition("/")[2],
            siblings=SIBLINGS[key.partition("/")[0]],
            rows=int(figures["rows"]),
            median=figures["median"],
            mean=figures["mean"],
            own_median=figures["own median"],
            own_mean=figures["own mean"],
        )
        for key, figures in calibration.scatter.items()
    ]


def timed(name: str, goal_s: float, work: Callable[[], object], now_s: Callable[[], float]) -> Mark:
    """How long a piece of work takes on this machine; the best of three rounds, because other work only slows."""
    best = float("inf")
    for _ in range(3):
        start = now_s()
        work()
        best = min(best, now_s() - start)
    return Mark(name, "", f"≤ {goal_s:g} s", best, 0, best <= goal_s)
