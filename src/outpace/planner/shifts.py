"""Where predictions of what was never measured lie on one side: a shift in logs, learnt and judged on other folds.

A shift is the median over left-out groups of their median residual, so that a group with many rows counts once.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outpace.planner.columns import Numbers

# Median and mean error must both fall by this share of themselves on folds that taught nothing. The time between tokens
# of unseen models did while runs counted twice (lab log, 2026-11-29); what helps one and costs the other is left out.
_LEAST_FALL = 0.05
# Fewer groups are an anecdote.
_LEAST_GROUPS = 10


@dataclass(frozen=True)
class Residuals:
    """Left-out residuals of one quantity: group and fold of each, which of them teach and which are judged."""

    logs: Numbers
    groups: NDArray[np.str_]
    folds: NDArray[np.intp]
    teaching: NDArray[np.bool_]
    judged: NDArray[np.bool_]


def shift_of(groups: NDArray[np.str_], logs: Numbers) -> float:
    """The median of the groups' medians; 0 for few groups."""
    members: dict[str, list[float]] = defaultdict(list)
    for group, log in zip(groups.tolist(), logs.tolist(), strict=True):
        members[group].append(log)
    if len(members) < _LEAST_GROUPS:
        return 0.0
    return float(np.median([np.median(own) for own in members.values()]))


def learnt_shift(given: Residuals) -> tuple[float, Numbers]:
    """The shift of all folds and the residuals under shifts of other folds; zero and as given where it does not pay."""
    shifted = given.logs.copy()
    for fold in set(given.folds.tolist()):
        others = given.teaching & (given.folds != fold)
        shifted[given.folds == fold] -= shift_of(given.groups[others], given.logs[others])
    if not _pays(given.logs[given.judged], shifted[given.judged]):
        return 0.0, given.logs
    return shift_of(given.groups[given.teaching], given.logs[given.teaching]), shifted


def _pays(before: Numbers, after: Numbers) -> bool:
    if not len(before):
        return False
    old, new = _errors(before), _errors(after)
    return all(one < (1 - _LEAST_FALL) * other for one, other in zip(new, old, strict=True))


def _errors(logs: Numbers) -> Sequence[float]:
    """Median and mean of the absolute relative errors."""
    sizes = np.abs(np.expm1(-logs))
    return float(np.median(sizes)), float(sizes.mean())
