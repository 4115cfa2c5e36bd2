"""How good the model is on what it has not seen: whole devices, models, versions, families, setups left out."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from outpace.planner.calibration import SCHEMA, Calibration, Spread, seen_by
from outpace.planner.columns import Numbers
from outpace.planner.fitting import (
    Evidence,
    TraitTable,
    corrections_of,
    evidence,
    fit_from_anywhere,
    fit_quantities,
    named,
    trait_table,
)
from outpace.planner.groundtruth import FILES, GroundTruth, Measurement
from outpace.planner.ranking import comparisons, score, verdicts_of_pairs
from outpace.planner.scatter import against_others, against_repeats
from outpace.planner.setups import Load, Quantity, Setup
from outpace.planner.shifts import Residuals, learnt_shift
from outpace.planner.traffics import run_of, run_on_any_version
from outpace.planner.traits import configuration_of, kind_of, version_of

# What is left out together, from the easiest on: a traffic shape of a measured setup; a setup (everything but
# lengths and load); then whole devices, models, engine versions and device families.
SCHEMES: dict[str, Callable[[Setup], str]] = {
    "shape": lambda setup: (
        f"{configuration_of(setup)} {version_of(setup)} {setup.isl:.0f} {setup.osl:.0f} {setup.load}"
    ),
    "near": lambda setup: f"{configuration_of(setup)} {version_of(setup)}",
    "device": lambda setup: setup.device.name,
    "model": lambda setup: setup.shape.name,
    "version": version_of,
    "family": lambda setup: setup.device.family,
}
_FOLDS = 8
_STARTS = 8
# Setups and shapes are left out in folds; of the others each alone, so that no verdict hangs on who shares a fold.
_FOLDED = ("shape", "near")
# Schemes that leave out what a ranking compares.
_PAIRED = ("device", "family")
_LEAST_ROWS = 40
# Rows of a group err together, so quantiles over rows of few groups hold too little of a new group (or, with many
# alike, too much): an interval takes the level at which one made from half of the groups holds this share of the rest.
_HELD = 0.80
_LEVELS = (0.72, 0.76, 0.80, 0.84, 0.88, 0.92, 0.96, 0.98, 0.99)
# Few groups make a single cut into halves a matter of luck; of six, a level that held 80 % held 74 % on six others.
_CUTS = 16


@dataclass(frozen=True)
class LeftOut:
    """A row's log of measured over predicted when its group was left out of the fit."""

    row: Measurement
    residual: float


def usable(truth: GroundTruth) -> list[Measurement]:
    """Rows that the memory arithmetic lets run; the others are counted as left out."""
    kept = [row for row in truth.rows if row.setup.memory.fits]
    truth.left_out["the memory arithmetic says that it does not fit"] += len(truth.rows) - len(kept)
    return kept


@dataclass(frozen=True)
class Prepared:
    """Rows ready to be fitted many times: evidence, traits, and the fit of all rows as a start."""

    given: Evidence
    table: TraitTable
    logs: dict[str, float]


def prepare(rows: Sequence[Measurement]) -> Prepared:
    """Prepare rows and fit them all once."""
    given = evidence(rows)
    return Prepared(given, trait_table([row.setup for row in rows]), fit_from_anywhere(given, _STARTS))


def left_out(prepared: Prepared, scheme: str, progress: Callable[[str], None]) -> list[LeftOut]:
    """Residuals of every row under a scheme, each from a fit that its group taught nothing."""
    rows = prepared.given.rows
    names = [SCHEMES[scheme](row.setup) for row in rows]
    fold = _folds(names, _FOLDS if scheme in _FOLDED else len(set(names)))
    found = np.zeros(len(rows))
    for number in sorted(set(fold.tolist())):
        progress(f"{scheme}: fold {number + 1} of {fold.max() + 1}")
        hidden = fold == number
        found[hidden] = _residuals(prepared, hidden)[hidden]
    return [LeftOut(row, float(residual)) for row, residual in zip(rows, found, strict=True)]


def shifted(scheme: str, found: Sequence[LeftOut]) -> tuple[list[LeftOut], dict[str, float]]:
    """Residuals as they are under shifts learnt on other folds, and the shift of each quantity where it pays."""
    groups = np.array([SCHEMES[scheme](one.row.setup) for one in found])
    folds = _folds(groups.tolist(), _FOLDS)
    logs = np.array([one.residual for one in found])
    shifts = {}
    for quantity, promise in _SHIFTED.items():
        chosen = np.array([one.row.setup.metric.quantity is quantity for one in found])
        own = [one.row for one in found if one.row.setup.metric.quantity is quantity]
        means = np.array([row.setup.metric.statistic == "mean" for row in own], dtype=np.bool_)
        judged = np.array([_PROMISES[promise](row) for row in own], dtype=np.bool_)
        shift, logs[chosen] = learnt_shift(
            Residuals(logs[chosen], groups[chosen], folds[chosen], teaching=means, judged=judged)
        )
        if shift:
            shifts[str(quantity)] = shift
    return [replace(one, residual=float(log)) for one, log in zip(found, logs, strict=True)], shifts


def _residuals(prepared: Prepared, hidden: NDArray[np.bool_]) -> Numbers:
    given = prepared.given.without(hidden)
    logs = fit_quantities(given, start=prepared.logs)
    left: Numbers = given.log_values - given.batch.log_metric(given.batch.rates(logs))
    return left - prepared.table.apply(corrections_of(prepared.table, left, given.weights))


def _folds(names: Sequence[str], count: int) -> NDArray[np.intp]:
    """Whole groups into folds of about equal size; a group never spans two."""
    sizes, place = [0] * count, {}
    for name, size in sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])):
        smallest = sizes.index(min(sizes))
        place[name] = smallest
        sizes[smallest] += size
    return np.array([place[name] for name in names])


def calibrate(
    truth: GroundTruth,
    folder: Path,
    today: date,
    progress: Callable[[str], None],
    schemes: Sequence[str] = tuple(SCHEMES),
) -> Calibration:
    """Fit everything, with error bars and accuracy from the rows left out."""
    rows = usable(truth)
    progress("all rows: fit")
    prepared = prepare(rows)
    given, logs = prepared.given, prepared.logs
    by_scheme, shifts = {}, {}
    for scheme in schemes:
        by_scheme[scheme], learnt = shifted(scheme, left_out(prepared, scheme, progress))
        shifts.update({f"{scheme}/{quantity}": shift for quantity, shift in learnt.items()})
    left = given.log_values - given.batch.log_metric(given.batch.rates(logs))
    setups = [row.setup for row in rows]
    levels = {scheme: held_levels(scheme, found) for scheme, found in by_scheme.items()}
    return Calibration(
        schema=SCHEMA,
        created_on=today.isoformat(),
        source_sha256=source_hash(folder),
        rows=len(rows),
        left_out=dict(truth.left_out.most_common()),
        logs=logs,
        corrections=named(prepared.table, corrections_of(prepared.table, left, given.weights)),
        shifts=shifts,
        spreads={
            key: value
            for scheme, found in by_scheme.items()
            for key, value in spreads(scheme, found, levels[scheme])
        },
        accuracy={
            f"{scheme}/{name}": figures
            for scheme, found in by_scheme.items()
            for name, figures in accuracy(found)
        },
        coverage={scheme: coverage(scheme, found, levels[scheme]) for scheme, found in by_scheme.items()},
        ranked={
            scheme: ranking_of_pairs(prepared, scheme, progress) if scheme in _PAIRED else ranking(found)
            for scheme, found in by_scheme.items()
        },
        scatter={
            f"{scheme}/{name}": figures
            for scheme in _SIBLINGS
            if scheme in by_scheme
            for name, figures in scatter(scheme, by_scheme[scheme])
        },
        seen=seen_by(setups),
    )


def source_hash(folder: Path) -> str:
    """SHA-256 over the ground-truth files in order."""
    digest = hashlib.sha256()
    for name in FILES:
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def spreads(
    scheme: str, found: Sequence[LeftOut], levels: Mapping[str, float]
) -> Iterable[tuple[str, Spread]]:
    """Quantiles of a scheme's residuals at each quantity's level, per kind where there are enough rows, and in all."""
    groups: dict[tuple[str, str], list[float]] = {}
    for one in found:
        quantity = str(one.row.setup.metric.quantity)
        for name in (kind_of(one.row.setup), quantity):
            groups.setdefault((f"{scheme}/{name}", quantity), []).append(one.residual)
    for (key, quantity), residuals in sorted(groups.items()):
        if len(residuals) >= _LEAST_ROWS:
            yield key, _spread(residuals, levels[quantity])


def held_levels(scheme: str, found: Sequence[LeftOut]) -> dict[str, float]:
    """Per quantity the lowest level whose intervals hold at least the promised share of groups not in their making."""
    tried = {level: coverage(scheme, found, dict.fromkeys(Quantity, level), "levels") for level in _LEVELS}
    return {
        str(quantity): next(
            (level for level in _LEVELS if tried[level].get(quantity, 1.0) >= _HELD), _LEVELS[-1]
        )
        for quantity in Quantity
    }


def _spread(residuals: Sequence[float], covered: float) -> Spread:
    low, high = np.quantile(residuals, [(1 - covered) / 2, (1 + covered) / 2])
    return Spread(low=round(float(low), 4), high=round(float(high), 4), rows=len(residuals))


def ranking(found: Sequence[LeftOut]) -> dict[str, tuple[int, int]]:
    """Per quantity how many pairs of devices had the faster one named right, of how many that differ."""
    predicted = np.log([one.row.value for one in found]) - [one.residual for one in found]
    rows = [one.row for one in found]
    none = {str(row.setup.metric.quantity): (0, 0) for row in rows}
    return none | score((one.quantity, one.is_right(predicted)) for one in comparisons(rows))


def ranking_of_pairs(
    prepared: Prepared, scheme: str, progress: Callable[[str], None]
) -> dict[str, tuple[int, int]]:
    """The same where devices are left out: each pair by one fit that neither side taught anything."""
    rows = prepared.given.rows
    names = [SCHEMES[scheme](row.setup) for row in rows]

    def predict(pair: frozenset[str]) -> Numbers:
        progress(f"{scheme}: without {' and '.join(sorted(pair))}")
        return prepared.given.log_values - _residuals(prepared, np.isin(names, list(pair)))

    return score(verdicts_of_pairs(comparisons(rows), names, predict))


def accuracy(found: Sequence[LeftOut]) -> Iterable[tuple[str, dict[str, float]]]:
    """Absolute relative errors of the quantities that people are promised something about."""
    for name, chosen in _PROMISES.items():
        errors = [_error(one.residual) for one in found if chosen(one.row)]
        if errors:
            yield name, _figures(errors)


def _error(residual: float) -> float:
    """The absolute relative error of a prediction from the log of measured over predicted."""
    return float(abs(np.expm1(-residual)))


def _figures(errors: Sequence[float]) -> dict[str, float]:
    median, p90 = np.quantile(errors, [0.5, 0.9])
    figures = {"median": median, "mean": np.mean(errors), "p90": p90}
    return {"rows": float(len(errors)), **{name: round(float(value), 4) for name, value in figures.items()}}


def _itl_mean(row: Measurement) -> bool:
    return row.setup.metric.quantity is Quantity.ITL and row.setup.metric.statistic == "mean"


def _below_saturation(row: Measurement) -> bool:
    """TTFT of a load that the instance carries: no burst, no caller without a place, no promise-bound server."""
    setup = row.setup
    if setup.metric.quantity is not Quantity.TTFT or setup.metric.statistic == "p99":
        return False
    if setup.load is Load.CLOSED:
        return setup.concurrency <= setup.memory.max_sequences
    return setup.load is Load.STATIC or (setup.load is Load.RATE and row.value < _SATURATED_MS)


_SATURATED_MS = 2000.0
_PROMISES: dict[str, Callable[[Measurement], bool]] = {
    "throughput": lambda row: row.setup.metric.quantity is Quantity.THROUGHPUT,
    "throughput static": lambda row: _is(row, Quantity.THROUGHPUT, Load.STATIC),
    "throughput full": lambda row: _is(row, Quantity.THROUGHPUT, Load.FULL),
    "throughput mlperf": lambda row: _is(
        row, Quantity.THROUGHPUT, Load.OFFLINE, Load.SERVER, Load.INTERACTIVE
    ),
    "throughput burst": lambda row: _is(row, Quantity.THROUGHPUT, Load.BURST),
    "throughput closed": lambda row: _is(row, Quantity.THROUGHPUT, Load.CLOSED),
    "itl mean": _itl_mean,
    "itl all": lambda row: row.setup.metric.quantity is Quantity.ITL,
    "itl closed": lambda row: _is(row, Quantity.ITL, Load.CLOSED),
    "ttft below saturation": _below_saturation,
    "ttft all": lambda row: row.setup.metric.quantity is Quantity.TTFT,
}


# Whose errors a shift must lower to be taken.
_SHIFTED = {
    Quantity.THROUGHPUT: "throughput",
    Quantity.ITL: "itl mean",
    Quantity.TTFT: "ttft below saturation",
}


# Promises whose lines have goals.
_JUDGED = ("throughput", "itl mean", "ttft below saturation")
# What of a left-out run was measured beside it: itself again, or on other versions of its engine.
_SIBLINGS: dict[str, Callable[[Sequence[Setup], Numbers], Numbers]] = {
    "near": lambda setups, logs: against_repeats([run_of(setup) for setup in setups], logs),
    "version": lambda setups, logs: against_others(
        [run_on_any_version(setup) for setup in setups], [version_of(setup) for setup in setups], logs
    ),
}


def scatter(scheme: str, found: Sequence[LeftOut]) -> Iterable[tuple[str, dict[str, float]]]:
    """How far runs lie from their siblings, and the model's error on these very runs when the scheme left them out."""
    for name in _JUDGED:
        judged = [one for one in found if _PROMISES[name](one.row)]
        logs = np.log([one.row.value for one in judged])
        apart = _SIBLINGS[scheme]([one.row.setup for one in judged], logs)
        known = np.flatnonzero(np.isfinite(apart))
        if len(known):
            own = _figures([_error(judged[place].residual) for place in known])
            siblings = _figures([_error(float(apart[place])) for place in known])
            yield name, {**siblings, "own median": own["median"], "own mean": own["mean"]}


def _is(row: Measurement, quantity: Quantity, *loads: Load) -> bool:
    return row.setup.metric.quantity is quantity and row.setup.load in loads


def coverage(
    scheme: str, found: Sequence[LeftOut], levels: Mapping[str, float], cuts: str = "check"
) -> dict[str, float]:
    """Share of left-out rows inside intervals that were made from the other half of the left-out groups.

    The mean over several cuts into halves; other `cuts` are other halves.
    """
    shares: dict[str, list[float]] = {}
    for cut in range(_CUTS):
        for quantity, share in _held(scheme, found, levels, f"{cuts} {cut} ").items():
            shares.setdefault(quantity, []).append(share)
    return {quantity: float(np.mean(values)) for quantity, values in sorted(shares.items())}


def _held(scheme: str, found: Sequence[LeftOut], levels: Mapping[str, float], cut: str) -> dict[str, float]:
    names = [cut + SCHEMES[scheme](one.row.setup) for one in found]
    halves = [int(hashlib.sha256(name.encode()).hexdigest(), 16) % 2 for name in names]
    inside: dict[str, list[bool]] = {}
    for side in (0, 1):
        others = [one for one, half in zip(found, halves, strict=True) if half != side]
        known = dict(spreads(scheme, others, levels))
        for one in (one for one, half in zip(found, halves, strict=True) if half == side):
            kind, quantity = kind_of(one.row.setup), str(one.row.setup.metric.quantity)
            bar = known.get(f"{scheme}/{kind}") or known.get(f"{scheme}/{quantity}")
            if bar:
                inside.setdefault(quantity, []).append(bar.low <= one.residual <= bar.high)
    return {quantity: float(np.mean(values)) for quantity, values in inside.items()}
