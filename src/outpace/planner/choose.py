"""The plan: variants priced, ranked by cost among those that meet the objective, the others with their reason."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from outpace.hardware.devices import Device
from outpace.planner.calibration import Calibration
from outpace.planner.candidates import Variant, variants
from outpace.planner.engines import asked_version
from outpace.planner.objective import Objective
from outpace.planner.operate import Point, operate
from outpace.planner.prices import HourlyPrice
from outpace.precision.formats import KvFormat, WeightFormat
from outpace.values.architecture import Architecture
from outpace.values.errors import InvalidInput
from outpace.values.money import PUSD_PER_USD, format_usd
from outpace.values.units import GB

_SECONDS_PER_HOUR = 3600
_MTOK = 10**6


@dataclass(frozen=True)
class Option:
    """A point bought often enough for the traffic; money in pico-dollars, None where the device has no price."""

    point: Point
    replicas: int
    price: HourlyPrice | None
    pusd_per_hour: int | None
    pusd_per_mtok: int | None

    @property
    def devices(self) -> int:
        """Devices of all replicas together."""
        return self.replicas * self.point.variant.split.devices


@dataclass(frozen=True)
class Rejection:
    """A device's best try, and why it lost."""

    device: str
    tried: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """The best option, the runners-up on other devices or layouts, and one line per rejected device."""

    shape: Architecture
    objective: Objective
    # As asked, of whichever engine a device is planned with; empty when it was left open.
    engine_version: str
    best: Option | None
    runners_up: tuple[Option, ...]
    rejected: tuple[Rejection, ...]
    considered: int
    # Every priced option that meets the objective, cheapest first.
    options: tuple[Option, ...]


def make_plan(
    shape: Architecture,
    objective: Objective,
    devices: Sequence[Device],
    prices: Mapping[str, HourlyPrice],
    calibration: Calibration,
    only: WeightFormat | None = None,
    only_kv: KvFormat | None = None,
    engine_version: str = "",
) -> Plan:
    """Choose how to serve a model. Raises InvalidInput when the objective contradicts itself or names no version.

    A version that was not measured is new: it has no corrections of its own and its interval is the wider one.
    """
    objective.check(shape)
    version = asked_version(engine_version)
    if not devices:
        raise InvalidInput("gpu", "no device is left to choose from")
    every = list(variants(shape, devices, objective.isl + objective.osl, only, only_kv, version))
    points = operate([variant for variant in every if variant.memory.fits], objective, calibration)
    options = [_option(point, objective, prices) for point in points]
    good = sorted((option for option in options if _is_good(option, objective)), key=_cost)
    best = good[0] if good else None
    return Plan(
        shape=shape,
        objective=objective,
        engine_version=version,
        best=best,
        runners_up=_runners_up(good),
        rejected=_rejections(every, options, good, best, objective),
        considered=len(every),
        options=tuple(good),
    )


def _option(point: Point, objective: Objective, prices: Mapping[str, HourlyPrice]) -> Option:
    replicas = max(1, math.ceil(objective.rate_per_s / point.rate_per_s))
    price = prices.get(point.variant.device.name)
    if price is None:
        return Option(point, replicas, None, None, None)
    per_hour = price.pusd * replicas * point.variant.split.devices
    tokens_per_hour = objective.rate_per_s * objective.osl * _SECONDS_PER_HOUR
    return Option(point, replicas, price, per_hour, round(per_hour * _MTOK / tokens_per_hour))


def _is_good(option: Option, objective: Objective) -> bool:
    if not option.point.meets or option.pusd_per_hour is None:
        return False
    return not objective.max_pusd_hour or option.pusd_per_hour <= objective.max_pusd_hour


def _cost(option: Option) -> tuple[int, float, int]:
    """Cheapest first; of equal cost the surer one, then the simpler layout."""
    assert option.pusd_per_mtok is not None
    return option.pusd_per_mtok, -round(option.point.sure, 2), option.point.variant.split.devices


def _runners_up(good: Sequence[Option], most: int = 4) -> tuple[Option, ...]:
    """The next best on other devices, and the best other layout on the same device."""
    found: list[Option] = []
    seen = {_place(good[0])} if good else set()
    for option in good[1:]:
        if _place(option) not in seen and len(found) < most:
            seen.add(_place(option))
            found.append(option)
    return tuple(found)


def _place(option: Option) -> tuple[str, int]:
    return option.point.variant.device.name, option.point.variant.split.devices


def _rejections(
    every: Sequence[Variant],
    options: Sequence[Option],
    good: Sequence[Option],
    best: Option | None,
    objective: Objective,
) -> tuple[Rejection, ...]:
    winner = best.point.variant.device.name if best else ""
    names = dict.fromkeys(variant.device.name for variant in every)
    return tuple(
        _rejection(
            [v for v in every if v.device.name == name],
            [o for o in options if o.point.variant.device.name == name],
            [o for o in good if o.point.variant.device.name == name],
            best,
            objective,
        )
        for name in names
        if name != winner
    )


def _rejection(
    tried: Sequence[Variant],
    options: Sequence[Option],
    good: Sequence[Option],
    best: Option | None,
    objective: Objective,
) -> Rejection:
    name = tried[0].device.name
    if good and best:
        return Rejection(name, good[0].point.variant.label, _dearer(good[0], best))
    if not options:
        nearest = max(tried, key=lambda variant: variant.memory.kv_room_bytes)
        return Rejection(name, nearest.label, _does_not_fit(nearest))
    meeting = [option for option in options if option.point.meets]
    if not meeting:
        closest = min(options, key=lambda option: _excess(option.point, objective))
        return Rejection(name, closest.point.variant.label, _too_slow(closest.point, objective))
    unpriced = min(meeting, key=lambda option: option.devices)
    if unpriced.price is None:
        return Rejection(
            name,
            unpriced.point.variant.label,
            f"no price known for it ({unpriced.devices} needed); give one with --prices",
        )
    cheapest = min(meeting, key=_cost)
    cost = format_usd(cheapest.pusd_per_hour or 0)
    return Rejection(
        name, cheapest.point.variant.label, f"${cost}/h > ${format_usd(objective.max_pusd_hour)}/h allowed"
    )


def _dearer(option: Option, best: Option) -> str:
    ratio = (option.pusd_per_mtok or 0) / max(best.pusd_per_mtok or 1, 1)
    amount = (option.pusd_per_mtok or 0) / PUSD_PER_USD
    count = f"{option.devices} device{'s' if option.devices > 1 else ''}"
    return f"dearer: ${amount:.3g}/Mtok, {ratio:.2g}x the best, with {count}"


def _does_not_fit(variant: Variant) -> str:
    use = variant.memory
    return (
        f"does not fit: {use.weights_bytes / GB:.1f} GB of weights each and "
        f"{use.kv_bytes_per_sequence / GB:.2f} GB per sequence in {use.capacity_bytes / GB:.0f} GB"
    )


def _excess(point: Point, objective: Objective) -> float:
    over = [
        value / bound
        for value, bound in ((point.ttft_ms, objective.ttft_ms), (point.itl_ms, objective.itl_ms))
        if bound
    ]
    return max(over, default=0.0)


def _too_slow(point: Point, objective: Objective) -> str:
    percentile = f"p{objective.percentile}"
    reasons = []
    if objective.ttft_ms and point.ttft_ms > objective.ttft_ms:
        reasons.append(f"TTFT {percentile} {point.ttft_ms / 1e3:.2g} s > {objective.ttft_ms / 1e3:g} s")
    if objective.itl_ms and point.itl_ms > objective.itl_ms:
        reasons.append(f"ITL {percentile} {point.itl_ms:.3g} ms > {objective.itl_ms:g} ms")
    if not reasons:
        reasons.append(f"only {point.sure:.0%} sure of the bounds, {objective.least_sure:.0%} asked")
    return " and ".join(reasons) + " even when almost idle"
