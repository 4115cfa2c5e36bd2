"""The whole model over many setups at once: columns, fitted rates, service, and the asked metric in logs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from outpace.planner.columns import Columns, Flags, Numbers, columns, load_mask, quantity_mask
from outpace.planner.quantities import FITTED, group_of
from outpace.planner.service import Loads, Service, serve
from outpace.planner.setups import Load, Quantity, Setup

_MS = 1e3
_SMALLEST = 1e-9


@dataclass(frozen=True)
class Batch:
    """Setups prepared for array arithmetic."""

    setups: tuple[Setup, ...]

    @cached_property
    def at(self) -> Columns:
        """The setups' numbers."""
        return columns(self.setups)

    @cached_property
    def loads(self) -> Loads:
        """Which setups arrive how."""
        paced = [setup.rate_per_s > 0 for setup in self.setups]
        fixed = load_mask(self.setups, Load.STATIC, Load.CLOSED, Load.BURST)
        return Loads(
            static=load_mask(self.setups, Load.STATIC),
            closed=load_mask(self.setups, Load.CLOSED),
            burst=load_mask(self.setups, Load.BURST),
            paced=np.array(paced, dtype=np.bool_) & ~fixed,
        )

    @cached_property
    def scale(self) -> Numbers:
        """From tokens per second of one instance to the unit that the metric asks for."""
        return np.array([_scale(setup) for setup in self.setups])

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """The group of every setup under every grouping that the fitted quantities use."""
        names = {grouping for quantity in FITTED.values() for grouping, _ in quantity.groups}
        return {name: [group_of(setup, name) for setup in self.setups] for name in sorted(names)}

    def rates(self, logs: Mapping[str, float]) -> dict[str, Numbers]:
        """Every fitted quantity per setup; `logs` holds global values and group offsets by `offset_name`."""
        found = {}
        for name, quantity in FITTED.items():
            total = np.full(len(self.setups), logs.get(name, float(np.log(quantity.prior))))
            for grouping, _ in quantity.groups:
                known = {
                    value: logs.get(offset_name(name, grouping, value), 0.0)
                    for value in set(self.groups[grouping])
                }
                total += np.array([known[value] for value in self.groups[grouping]])
            found[name] = np.exp(total)
        return found

    def serve(self, rates: Mapping[str, Numbers]) -> Service:
        """What every setup delivers."""
        return serve(self.at, rates, self.loads)

    @cached_property
    def _asks_throughput(self) -> Flags:
        return quantity_mask(self.setups, Quantity.THROUGHPUT)

    @cached_property
    def _asks_ttft(self) -> Flags:
        return quantity_mask(self.setups, Quantity.TTFT)

    def log_metric(self, rates: Mapping[str, Numbers]) -> Numbers:
        """The natural logarithm of the asked metric, in its unit."""
        service = self.serve(rates)
        latency = np.where(self._asks_ttft, service.ttft_s, service.itl_s) * _MS
        value = np.where(self._asks_throughput, service.tokens_per_s * self.scale, latency)
        return np.log(np.maximum(value, _SMALLEST)) + np.log(rates["level"])


def offset_name(quantity: str, grouping: str, value: str) -> str:
    """The name of a group's offset in a calibration."""
    return f"{quantity}|{grouping}|{value}"


def batch(setups: Sequence[Setup]) -> Batch:
    """Prepare setups."""
    return Batch(tuple(setups))


def _scale(setup: Setup) -> float:
    per_instance = 1 / setup.split.devices if setup.metric.per_device else setup.replicas
    return per_instance / (setup.mean_osl if setup.metric.per_sample else 1.0)
