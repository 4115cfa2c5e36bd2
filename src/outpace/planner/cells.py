"""Cells: a model on an engine, at a format and on a device, errs as a whole, and the physics must not follow it.

The 200 rows of one cell say much about how a run follows its load and lengths, and once what its level is. So the fit
gives every cell a level of its own, drawn from a normal distribution: within cells all rows count, and between cells
each counts about once. The levels are not kept; the corrections explain them by traits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outpace.planner.columns import Numbers
from outpace.planner.setups import Setup

Matrix = NDArray[np.float64]
# Logs by which cells differ from the physics; what left-out setups err by in the median is about half of it.
SPREAD_LOG = 0.2
_REWEIGHTINGS = 6


@dataclass(frozen=True)
class Cells:
    """Which cell every row belongs to."""

    of_row: NDArray[np.intp]
    count: int

    def levels(self, residuals: Numbers, trust: Callable[[Numbers], Numbers]) -> Numbers:
        """The likeliest level of every cell: shrunken means, reweighted by what is left of the residuals."""
        found = np.zeros(self.count)
        for _ in range(_REWEIGHTINGS):
            weights = trust(residuals - found[self.of_row])
            found = self.sums(weights * residuals) / (self.sums(weights) + SPREAD_LOG**-2)
        return found

    def sums(self, per_row: Numbers) -> Numbers:
        """Per cell the sum of what its rows have."""
        return np.bincount(self.of_row, per_row, self.count).astype(np.float64)

    def without_levels(
        self, jacobian: Matrix, residuals: Numbers, weights: Numbers
    ) -> tuple[Matrix, Numbers]:
        """Curvature and slope of weighted squares when every cell's level is free within its spread.

        The inverse of `diag(1 / weights) + SPREAD_LOG**2` within cells, by the Sherman-Morrison formula.
        """
        weighted = jacobian * weights[:, None]
        of_cells = np.zeros((self.count, jacobian.shape[1]))
        np.add.at(of_cells, self.of_row, weighted)
        kept = 1 / (SPREAD_LOG**-2 + self.sums(weights))
        curvature = weighted.T @ jacobian - (of_cells * kept[:, None]).T @ of_cells
        slope = weighted.T @ residuals - of_cells.T @ (kept * self.sums(weights * residuals))
        return curvature, slope


def cells(setups: Sequence[Setup]) -> Cells:
    """The cells of setups; quantities have levels of their own."""
    names = [
        (s.device.name, s.shape.name, s.generation.name, s.weights.name, s.metric.quantity) for s in setups
    ]
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return Cells(np.array([places[name] for name in names], dtype=np.intp), len(places))
