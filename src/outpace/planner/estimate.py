"""Estimates: a value with its 80 % interval, unit and basis, for many setups in one pass."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from outpace.planner.calibration import Calibration
from outpace.planner.model import batch
from outpace.planner.setups import Setup
from outpace.planner.traits import is_version_named


@dataclass(frozen=True)
class Estimate:
    """A predicted metric: in 80 % of left-out measurements of its kind the truth lay between `low` and `high`."""

    value: float
    low: float
    high: float
    unit: str
    basis: str


def estimate_all(setups: Sequence[Setup], calibration: Calibration) -> list[Estimate]:
    """Estimates of many setups, in order."""
    if not setups:
        return []
    prepared = batch(setups)
    logs = prepared.log_metric(prepared.rates(calibration.logs))
    return [
        _estimate(setup, float(log) + calibration.correction(setup), calibration)
        for setup, log in zip(setups, logs, strict=True)
    ]


def in_flight(setup: Setup, calibration: Calibration) -> float:
    """Sequences that run at once under a setup's load."""
    prepared = batch([setup])
    return float(prepared.serve(prepared.rates(calibration.logs)).in_flight[0])


def _estimate(setup: Setup, log: float, calibration: Calibration) -> Estimate:
    spread = calibration.spread(setup)
    return Estimate(
        value=math.exp(log),
        low=math.exp(log + spread.low),
        high=math.exp(log + spread.high),
        unit=setup.metric.unit,
        basis=_basis(setup, calibration, spread.rows),
    )


_NEW = {
    "shape": "this setup was measured with other traffic",
    "near": "device, model and engine were measured, not together",
    "device": "the device was not measured, its family was",
    "model": "the model was not measured",
    "engine": "the engine was not measured",
    "version": "this version of the engine was not measured",
}
_OPEN = "whichever measured version of the engine runs"


def _basis(setup: Setup, calibration: Calibration, rows: int) -> str:
    evidence = f"fit {calibration.created_on}, interval of {rows} left-out rows"
    if calibration.novelty(setup) in ("family", "far"):
        return f"roofline: datasheet of {setup.device.name} with pooled efficiencies ({evidence})"
    news = [_NEW[part] for part in calibration.news(setup)]
    known = news if is_version_named(setup) else [*news, _OPEN]
    return f"calibrated: {'; '.join(known)} ({evidence})"
