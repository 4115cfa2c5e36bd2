"""Which of two devices is faster for the same model and traffic: pairs that measurements decide, and who was right."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from outpace.planner.columns import Numbers
from outpace.planner.groundtruth import Measurement
from outpace.planner.traffics import traffic_of

# Devices that differ by less are as good as each other.
_LEAST_DIFFERENCE = 0.10


@dataclass(frozen=True)
class Comparison:
    """Two devices under one model and traffic: places of the rows of each, and the log by which the first is above."""

    quantity: str
    places: tuple[tuple[int, ...], tuple[int, ...]]
    above: float

    def is_right(self, predicted: Numbers) -> bool:
        """Whether predictions, logs per row, have the same device above."""
        return bool(np.sign(_apart(predicted, self.places)) == np.sign(self.above))


def comparisons(rows: Sequence[Measurement]) -> list[Comparison]:
    """Every pair of devices that measured means tell apart; what one device repeats is one point, not many."""
    traffics: dict[tuple[str, str], dict[str, list[int]]] = {}
    for place, row in enumerate(rows):
        setup = row.setup
        if setup.metric.statistic == "mean":
            devices = traffics.setdefault((str(setup.metric.quantity), traffic_of(setup)), {})
            devices.setdefault(setup.device.name, []).append(place)
    measured = np.log([row.value for row in rows])
    found = []
    for (quantity, _), devices in traffics.items():
        for one, other in combinations(map(tuple, devices.values()), 2):
            above = _apart(measured, (one, other))
            if abs(above) > np.log1p(_LEAST_DIFFERENCE):
                found.append(Comparison(quantity, (one, other), above))
    return found


def _apart(logs: Numbers, places: tuple[tuple[int, ...], tuple[int, ...]]) -> float:
    one, other = places
    return float(np.mean(logs[list(one)]) - np.mean(logs[list(other)]))


def score(verdicts: Iterable[tuple[str, bool]]) -> dict[str, tuple[int, int]]:
    """Per quantity how many were right, of how many."""
    scores: dict[str, tuple[int, int]] = {}
    for quantity, is_right in verdicts:
        right, total = scores.get(quantity, (0, 0))
        scores[quantity] = (right + is_right, total + 1)
    return dict(sorted(scores.items()))


def verdicts_of_pairs(
    found: Sequence[Comparison], names: Sequence[str], predict: Callable[[frozenset[str]], Numbers]
) -> list[tuple[str, bool]]:
    """Verdicts by predictions that saw neither side: `predict` gives logs per row without the named groups.

    Two predictions that each know the other side promise to one what the other showed, which ranks worse than
    either errs (leave-pair-out: Airola et al., Computational Statistics & Data Analysis 55, 2011).
    """
    pairs: dict[frozenset[str], list[Comparison]] = {}
    for one in found:
        pairs.setdefault(frozenset(names[places[0]] for places in one.places), []).append(one)
    verdicts = []
    for pair, compared in sorted(pairs.items(), key=lambda item: sorted(item[0])):
        predicted = predict(pair)
        verdicts += [(one.quantity, one.is_right(predicted)) for one in compared]
    return verdicts
