"""Fitting: the physical quantities by robust least squares with priors, then shrunken residual corrections.

Both steps minimise Huber losses of log errors plus Gaussian priors (a maximum a posteriori estimate). The first is
Levenberg-Marquardt: a row's prediction depends on its own rates only, so the Jacobian is one pass per quantity. Every
cell has a free level in it (`cells.py`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from outpace.planner.cells import SPREAD_LOG, Cells, cells
from outpace.planner.columns import Numbers
from outpace.planner.groundtruth import Measurement
from outpace.planner.model import Batch, batch, offset_name
from outpace.planner.quantities import FITTED
from outpace.planner.setups import Setup
from outpace.planner.traits import traits

Places = NDArray[np.intp]
Matrix = NDArray[np.float64]
_HUBER_LOG = 0.25
_NOISE_LOG = 0.2
_CORRECTION_NOISE_LOG = 0.36
_CORRECTION_HUBER_LOG = 0.1
_NUDGE = 0.02
_MOST_STEP = 0.7
_CONVERGED = 1e-3
_STILL = 0.1
_LIGHT_DAMPING = 0.01
_MOST_GRADIENTS = 80
# Reweightings of the corrections; after three, rankings of devices still moved by points.
_REWEIGHTINGS = 5
# Starts are drawn from the priors, offsets of groups closer to theirs; always the same ones.
_DRAW_SEED = 2026
_DRAWN_OFFSETS = 0.3
_DRAWN_ITERATIONS = 60
# The spread of a group that is as the quantity itself says.
_FIXED = 1e-3


@dataclass(frozen=True)
class Evidence:
    """Measurements prepared for fitting: log values and the weight of each row."""

    rows: tuple[Measurement, ...]
    batch: Batch
    log_values: Numbers
    weights: Numbers
    cells: Cells

    def without(self, left_out: NDArray[np.bool_]) -> "Evidence":
        """The same evidence with some rows given no weight."""
        return replace(self, weights=np.where(left_out, 0.0, self.weights))

    def trust(self, residuals: Numbers) -> Numbers:
        """Weights of squares that have the slope of the Huber loss."""
        kept = np.minimum(1.0, _HUBER_LOG / np.maximum(np.abs(residuals), 1e-9))
        return self.weights * kept / _NOISE_LOG**2


def evidence(rows: Sequence[Measurement]) -> Evidence:
    """Prepare rows; a source with many rows of a quantity counts as the square root of their number.

    How long an engine compiles within a measurement is no property of serving: such rows teach nothing.
    """
    keys = [(row.case.id[:3], row.setup.metric.quantity) for row in rows]
    counts = Counter(keys)
    weights = np.array([counts[key] ** -0.5 for key in keys])
    weights = np.where([row.setup.is_compiling for row in rows], 0.0, weights)
    values = np.log([row.value for row in rows])
    setups = [row.setup for row in rows]
    return Evidence(
        tuple(rows), batch(setups), values, weights / weights[weights > 0].mean() * 0.1, cells(setups)
    )


@dataclass(frozen=True)
class _Unknowns:
    """The vector of fitted logs: names, priors, and per quantity which entries each row adds up."""

    names: tuple[str, ...]
    prior: Numbers
    spread: Numbers
    entries: dict[str, Places]

    def logs(self, at: Numbers) -> dict[str, float]:
        """The vector as a calibration's table."""
        return dict(zip(self.names, at.tolist(), strict=True))

    def rates(self, at: Numbers) -> dict[str, Numbers]:
        """Every quantity per row."""
        return {name: np.exp(at[entries].sum(axis=1)) for name, entries in self.entries.items()}


def fit_from_anywhere(given: Evidence, starts: int) -> dict[str, float]:
    """The likeliest of fits from several starts.

    The host, kernels and links each cost something per step, so the fit may have several bottoms: which one a single
    start ended in was luck, and moved errors by a point (lab log, 2026-11-30).
    """
    unknowns = _unknowns(given.batch)
    whole = np.array(["|" not in name for name in unknowns.names])
    drawn = np.random.default_rng(_DRAW_SEED).standard_normal((starts, len(whole)))
    away = drawn * unknowns.spread * np.where(whole, 1.0, _DRAWN_OFFSETS)
    fits = [_descend(given, unknowns, unknowns.prior + by, 1.0, _DRAWN_ITERATIONS) for by in away]
    return unknowns.logs(min(fits, key=lambda at: _cost(given, unknowns, at)[0]))


def fit_quantities(
    given: Evidence, iterations: int = 8, start: dict[str, float] | None = None
) -> dict[str, float]:
    """Logs of all quantities and group offsets that explain the rows best.

    A start near the answer saves steps; the light damping then brings an offset whose rows were left out
    back to its prior within two steps, so that it teaches nothing.
    """
    unknowns = _unknowns(given.batch)
    if start is None:
        return unknowns.logs(_descend(given, unknowns, unknowns.prior.copy(), 1.0, iterations))
    at = np.array([start[name] for name in unknowns.names])
    return unknowns.logs(_descend(given, unknowns, at, _LIGHT_DAMPING, iterations))


def _descend(given: Evidence, unknowns: "_Unknowns", at: Numbers, damping: float, iterations: int) -> Numbers:
    """Levenberg-Marquardt steps from a start until they settle."""
    cost, residual = _cost(given, unknowns, at)
    for _ in range(iterations):
        curvature, slope = _normal_equations(given, unknowns, at, residual)
        for _ in range(6):
            damped = curvature + damping * np.diag(np.diag(curvature))
            step = np.clip(np.linalg.solve(damped, -slope), -_MOST_STEP, _MOST_STEP)
            new_cost, new_residual = _cost(given, unknowns, at + step)
            if new_cost < cost:
                break
            damping *= 4
        else:
            break
        settled = cost - new_cost < _CONVERGED * cost and float(np.abs(step).max()) < _STILL
        at, cost, residual, damping = at + step, new_cost, new_residual, max(damping / 5, 1e-4)
        if settled:
            break
    return at


def _unknowns(setups: Batch) -> _Unknowns:
    names: list[str] = []
    prior: list[float] = []
    spread: list[float] = []
    entries = {}
    for name, quantity in FITTED.items():
        columns = [np.full(len(setups.setups), len(names))]
        names, prior, spread = (
            [*names, name],
            [*prior, float(np.log(quantity.prior))],
            [*spread, quantity.spread],
        )
        for grouping, deviation in quantity.groups:
            values = sorted(set(setups.groups[grouping]))
            place = {value: len(names) + i for i, value in enumerate(values)}
            columns.append(np.array([place[value] for value in setups.groups[grouping]]))
            names = [*names, *(offset_name(name, grouping, value) for value in values)]
            prior = prior + [0.0] * len(values)
            spread = spread + [_spread(grouping, value, deviation) for value in values]
        entries[name] = np.stack(columns, axis=1)
    return _Unknowns(tuple(names), np.array(prior), np.array(spread), entries)


def _spread(grouping: str, value: str, deviation: float) -> float:
    """How far a group may be from the quantity itself; setups that name no processor are not apart from it."""
    return deviation if value or grouping != "processor" else _FIXED


def _cost(given: Evidence, unknowns: _Unknowns, at: Numbers) -> tuple[float, Numbers]:
    residual = given.batch.log_metric(unknowns.rates(at)) - given.log_values
    levels = given.cells.levels(residual, given.trust)
    size = np.abs(residual - levels[given.cells.of_row]) / _HUBER_LOG
    loss = np.where(size < 1, size * size / 2, size - 0.5) * _HUBER_LOG**2
    from_prior = (((at - unknowns.prior) / unknowns.spread) ** 2).sum() / 2
    from_cells = ((levels / SPREAD_LOG) ** 2).sum() / 2
    return float((given.weights * loss).sum() / _NOISE_LOG**2 + from_prior + from_cells), residual


def _normal_equations(
    given: Evidence, unknowns: _Unknowns, at: Numbers, residual: Numbers
) -> tuple[Matrix, Numbers]:
    rates = unknowns.rates(at)
    base = residual + given.log_values
    row = np.arange(len(base))
    jacobian = np.zeros((len(base), len(at)))
    for name, entries in unknowns.entries.items():
        nudged = {**rates, name: rates[name] * (1 + _NUDGE)}
        change = (given.batch.log_metric(nudged) - base) / np.log1p(_NUDGE)
        for column in entries.T:
            np.add.at(jacobian, (row, column), change)
    levels = given.cells.levels(residual, given.trust)
    trust = given.trust(residual - levels[given.cells.of_row])
    curvature, slope = given.cells.without_levels(jacobian, residual, trust)
    from_prior = (at - unknowns.prior) / unknowns.spread**2
    return curvature + np.diag(unknowns.spread**-2.0), slope + from_prior


@dataclass(frozen=True)
class TraitTable:
    """A sparse matrix of setups by traits, scaled by the traits' prior spreads."""

    row: Places
    column: Places
    value: Numbers
    spreads: dict[str, float]
    rows: int

    def apply(self, coefficients: Numbers) -> Numbers:
        """The sum of every row's traits."""
        return np.bincount(self.row, self.value * coefficients[self.column], self.rows).astype(np.float64)

    def gather(self, per_row: Numbers) -> Numbers:
        """The transposed product."""
        return np.bincount(self.column, self.value * per_row[self.row], len(self.spreads)).astype(np.float64)


def trait_table(setups: Sequence[Setup]) -> TraitTable:
    """All traits of all setups."""
    place: dict[str, int] = {}
    spreads: dict[str, float] = {}
    row, column, value = [], [], []
    for i, setup in enumerate(setups):
        for trait in traits(setup):
            column.append(place.setdefault(trait.name, len(place)))
            spreads.setdefault(trait.name, trait.spread)
            row.append(i)
            value.append(trait.value * trait.spread)
    return TraitTable(np.array(row), np.array(column), np.array(value), spreads, len(setups))


def corrections_of(table: TraitTable, left: Numbers, weights: Numbers) -> Numbers:
    """Ridge coefficients under a Huber loss, by reweighting; rows without weight teach nothing."""
    used = weights > 0
    trust = np.where(used, np.clip(weights / weights[used].mean(), 0.3, 3.0), 0.0)
    found = np.zeros(len(table.spreads))
    huber = np.ones(table.rows)
    for _ in range(_REWEIGHTINGS):
        found = _ridge(table, left, trust * huber, found)
        missed = np.abs(left - table.apply(found))
        huber = np.minimum(1.0, _CORRECTION_HUBER_LOG / np.maximum(missed, 1e-9))
    return found


def named(table: TraitTable, found: Numbers) -> dict[str, float]:
    """Coefficients by trait, in the traits' own scale."""
    return {name: float(c * spread) for (name, spread), c in zip(table.spreads.items(), found, strict=True)}


def _ridge(table: TraitTable, target: Numbers, trust: Numbers, start: Numbers) -> Numbers:
    """Solve (1 + X'WX) b = X'Wy by conjugate gradients; the identity keeps it well conditioned."""
    weight = trust / _CORRECTION_NOISE_LOG**2
    found = start.copy()
    missing = table.gather(weight * (target - table.apply(found))) - found
    direction, size = missing.copy(), float(missing @ missing)
    goal = size * 1e-5
    for _ in range(_MOST_GRADIENTS):
        if size <= goal:
            break
        image = direction + table.gather(weight * table.apply(direction))
        length = size / float(direction @ image)
        found, missing = found + length * direction, missing - length * image
        new_size = float(missing @ missing)
        direction, size = missing + new_size / size * direction, new_size
    return found
