"""The best operating point of each variant: the highest request rate at which it keeps the objective's bounds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from outpace.planner.calibration import Calibration
from outpace.planner.candidates import Variant
from outpace.planner.columns import Columns, Numbers
from outpace.planner.model import Batch, batch, offset_name
from outpace.planner.objective import Objective
from outpace.planner.service import Loads, serve
from outpace.planner.setups import Load, Setup, parse_metric
from outpace.planner.traits import configuration_of

# Shares of an instance's capacity that are tried; nobody plans for the last tenth, where queues explode.
_SHARES = np.array([0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9])
# Standard normal quantiles: a latency's p90 and p95 lie between its p50 and p99 as a log-normal's do.
_Z = {50: 0.0, 90: 1.2816, 95: 1.6449, 99: 2.3263}
_Z80 = 1.2816


@dataclass(frozen=True)
class Point:
    """One instance at its best rate; latencies in ms at the objective's percentile, `sure` a probability."""

    variant: Variant
    rate_per_s: float
    in_flight: float
    ttft_ms: float
    itl_ms: float
    tokens_per_s: float
    tokens_low_per_s: float
    tokens_high_per_s: float
    sure: float
    basis: str
    meets: bool


@dataclass(frozen=True)
class _Grid:
    """Latencies in logs of ms and in-flight counts, one row per variant, one column per share of capacity."""

    capacity: Numbers
    ttft: Numbers
    itl: Numbers
    in_flight: Numbers

    def row(self, i: int) -> "_Grid":
        """One variant's figures."""
        return _Grid(self.capacity[i : i + 1], self.ttft[i], self.itl[i], self.in_flight[i])


def operate(found: Sequence[Variant], objective: Objective, calibration: Calibration) -> list[Point]:
    """The best point of every variant that fits, in order; `meets` is False when even a trickle breaks a bound."""
    if not found:
        return []
    setups = [variant.setup(objective.isl, objective.osl) for variant in found]
    grid = _grid(batch(setups), objective, calibration)
    # No trait depends on the KV format, so variants that differ only there share their corrections.
    shared = {configuration_of(setup): setup for setup in setups}
    corrections = {name: _corrections(setup, calibration) for name, setup in shared.items()}
    return [
        _point(
            found[i], setups[i], grid.row(i), corrections[configuration_of(setups[i])], objective, calibration
        )
        for i in range(len(found))
    ]


def _grid(prepared: Batch, objective: Objective, calibration: Calibration) -> _Grid:
    rates = prepared.rates(calibration.logs)
    capacity = prepared.serve(rates).tokens_per_s
    count, width = len(prepared.setups), len(_SHARES)
    wide = _repeat(prepared.at, width, (capacity[:, None] * _SHARES / objective.osl).ravel())
    paced = np.ones(count * width, dtype=np.bool_)
    service = serve(
        wide, {n: np.repeat(v, width) for n, v in rates.items()}, Loads(~paced, ~paced, ~paced, paced)
    )
    shape = (count, width)
    return _Grid(
        capacity * rates["level"],
        np.log(service.ttft_s * 1e3).reshape(shape) + _percentile(calibration, "ttft", objective.percentile),
        np.log(service.itl_s * 1e3).reshape(shape) + _percentile(calibration, "itl", objective.percentile),
        service.in_flight.reshape(shape),
    )


def _repeat(at: Columns, width: int, rate: Numbers) -> Columns:
    arrays = {f.name: np.repeat(getattr(at, f.name), width) for f in fields(at) if f.name != "count"}
    return replace(at, count=at.count * width, **{**arrays, "rate": rate})


def _percentile(calibration: Calibration, quantity: str, percentile: int) -> float:
    middle, late = (
        calibration.logs.get(offset_name("level", "kind", f"{Load.RATE}/{quantity}/{stat}"), 0.0)
        for stat in ("p50", "p99")
    )
    return middle + (late - middle) * _Z[percentile] / _Z[99]


def _point(
    variant: Variant,
    setup: Setup,
    grid: _Grid,
    corrections: tuple[float, float, float],
    objective: Objective,
    calibration: Calibration,
) -> Point:
    speed, first, pace = corrections
    ttft, itl = np.exp(grid.ttft + first), np.exp(grid.itl + pace)
    allowed = np.ones(len(_SHARES), dtype=np.bool_)
    if objective.ttft_ms:
        allowed &= ttft <= objective.ttft_ms
    if objective.itl_ms:
        allowed &= itl <= objective.itl_ms
    sure = _sure(setup, ttft, itl, objective, calibration)
    allowed &= sure >= objective.least_sure
    chosen = int(np.flatnonzero(allowed)[-1]) if allowed.any() else 0
    tokens = float(grid.capacity[0] * math.exp(speed))
    spread = calibration.spread(setup)
    return Point(
        variant=variant,
        rate_per_s=tokens * float(_SHARES[chosen]) / objective.osl,
        in_flight=float(grid.in_flight[chosen]),
        ttft_ms=float(ttft[chosen]),
        itl_ms=float(itl[chosen]),
        tokens_per_s=tokens,
        tokens_low_per_s=tokens * math.exp(spread.low),
        tokens_high_per_s=tokens * math.exp(spread.high),
        sure=float(sure[chosen]),
        basis=calibration.novelty(setup),
        meets=bool(allowed.any()),
    )


def _corrections(setup: Setup, calibration: Calibration) -> tuple[float, float, float]:
    """Logs to add to throughput, TTFT and ITL; the last is what throughput shows, and ITL's own shift."""
    first, pace = (
        replace(setup, load=Load.RATE, metric=parse_metric(name)) for name in ("ttft_ms_p50", "itl_ms_p50")
    )
    speed = calibration.correction(setup)
    shown = speed - calibration.shift(setup)
    return speed, calibration.correction(first), calibration.shift(pace) - shown


def _sure(
    setup: Setup, ttft_ms: Numbers, itl_ms: Numbers, objective: Objective, calibration: Calibration
) -> Numbers:
    """Chance that both bounds hold, from the spread of left-out residuals taken as log-normal and independent."""
    chance = np.ones(len(ttft_ms))
    for metric, values, bound in (
        ("ttft_ms_p50", ttft_ms, objective.ttft_ms),
        ("itl_ms_p50", itl_ms, objective.itl_ms),
    ):
        if bound:
            spread = calibration.spread(replace(setup, load=Load.RATE, metric=parse_metric(metric)))
            sigma = max((spread.high - spread.low) / (2 * _Z80), 0.02)
            chance *= [_normal(math.log(bound / value) / sigma) for value in values.tolist()]
    return chance


def _normal(z: float) -> float:
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))
