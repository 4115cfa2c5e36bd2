"""Why one device beats another: its bandwidth, capacity, arithmetic and link taken over one by one."""

import math
from dataclasses import dataclass, replace
from itertools import permutations

import msgspec

from outpace.hardware.devices import Device
from outpace.planner.calibration import Calibration
from outpace.planner.cases import Case
from outpace.planner.model import batch
from outpace.planner.setups import Setup, resolve

_SECONDS_PER_HOUR = 3600
# Facts that change together when one device takes over another's.
_SHARES: dict[str, tuple[str, ...]] = {
    "bandwidth": ("bandwidth_bytes_per_s",),
    "capacity": ("memory_bytes",),
    "arithmetic": ("bf16_flops", "fp8_flops", "int8_ops", "fp4_flops", "fp32_flops"),
    "link": ("link", "link_bytes_per_s", "pcie_bytes_per_s"),
}


@dataclass(frozen=True)
class Comparison:
    """How many times faster `faster` is, and the factors of that; their product is the ratio."""

    faster: str
    slower: str
    ratio: float
    factors: dict[str, float]

    @property
    def shares(self) -> dict[str, float]:
        """Each factor as a share of the whole gain, in logs; they add up to one."""
        whole = math.log(self.ratio) if abs(self.ratio - 1) > 1e-6 else 1.0
        return {name: math.log(factor) / whole for name, factor in self.factors.items()}


def compare(faster: Setup, slower: Setup, calibration: Calibration) -> Comparison:
    """Split the predicted ratio of two setups into factors (Shapley values over the order of taking over).

    What is fitted per family beyond the datasheet goes into `other`.
    """
    names = list(_SHARES)
    subsets = {frozenset(subset) for order in permutations(names) for subset in _prefixes(order)}
    devices = {subset: _mixed(slower.device, faster.device, subset) for subset in subsets}
    speeds = _speeds([replace(slower, device=made) for made in devices.values()], calibration)
    value = dict(zip(devices, speeds, strict=True))
    factors = dict.fromkeys(names, 0.0)
    orders = list(permutations(names))
    for order in orders:
        for name, before in zip(order, _prefixes(order), strict=False):
            factors[name] += (value[before | {name}] - value[before]) / len(orders)
    whole = _speeds([faster], calibration)[0] + calibration.correction(faster)
    start = value[frozenset()] + calibration.correction(slower)
    factors["other"] = whole - start - sum(factors.values())
    kept = {name: math.exp(log) for name, log in factors.items() if abs(log) > 5e-3}
    return Comparison(faster.device.name, slower.device.name, math.exp(whole - start), kept)


def _prefixes(order: tuple[str, ...]) -> list[frozenset[str]]:
    return [frozenset(order[:i]) for i in range(len(order) + 1)]


def _mixed(base: Device, other: Device, taken: frozenset[str]) -> Device:
    fields = {field: getattr(other, field) for name in taken for field in _SHARES[name]}
    return msgspec.structs.replace(base, **fields)


def _speeds(setups: list[Setup], calibration: Calibration) -> list[float]:
    prepared = batch(setups)
    return [float(log) for log in prepared.log_metric(prepared.rates(calibration.logs))]


def compare_devices(
    model: str, weights: str, isl: int, osl: int, tp: int, pair: tuple[str, str], calibration: Calibration
) -> Comparison:
    """Compare two devices filled with the same traffic; the first named is asked to be the faster."""
    setups = [
        resolve(
            Case(
                model=model,
                gpu=gpu,
                n_gpus=str(tp),
                tp=str(tp),
                weights_precision=weights,
                engine="vLLM",
                isl=str(isl),
                osl=str(osl),
                batch_or_concurrency="max",
                metric="output_throughput",
            )
        )
        for gpu in pair
    ]
    return compare(setups[0], setups[1], calibration)


@dataclass(frozen=True)
class BreakEven:
    """From which rate on the plan is cheaper than an API, and whether one plan's hardware carries that rate."""

    rate_per_s: float
    api_pusd_per_hour: int
    plan_pusd_per_hour: int
    is_reachable: bool

    @property
    def plan_is_cheaper(self) -> bool:
        """At the traffic that was planned for."""
        return self.plan_pusd_per_hour < self.api_pusd_per_hour


def break_even(
    plan_pusd_per_hour: int,
    capacity_tokens_per_s: float,
    api_pusd_per_token: int,
    rate_per_s: float,
    osl: int,
) -> BreakEven:
    """Compare a plan's fixed hourly cost with an API's price per output token."""
    per_request = api_pusd_per_token * osl
    rate = plan_pusd_per_hour / (per_request * _SECONDS_PER_HOUR) if per_request else math.inf
    return BreakEven(
        rate_per_s=rate,
        api_pusd_per_hour=round(per_request * rate_per_s * _SECONDS_PER_HOUR),
        plan_pusd_per_hour=plan_pusd_per_hour,
        is_reachable=rate * osl <= capacity_tokens_per_s,
    )
