"""How fast llama.cpp will decode on this machine, from a probe and the model's shape, before anything is downloaded."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from outpace.hardware.machine import Machine
from outpace.hardware.probe import Probe
from outpace.precision.formats import WeightFormat, kv_format, weight_format
from outpace.precision.memory import kv_bytes_per_sequence, weight_bytes
from outpace.values.architecture import Architecture
from outpace.values.units import MIB

# llama.cpp's own buffers beside weights and cache.
_BUFFERS_BYTES = 200 * MIB
# Left for the system; a machine that swaps decodes at the speed of its disk.
_SPARE_SHARE = 0.1
# Two probes of a shared machine differ by this much, and so do two runs.
_SPREAD = 0.3
FORMATS = ("q4_0", "q4_1", "q4_k_m", "q8_0", "bf16")


@dataclass(frozen=True)
class LocalEstimate:
    """Predicted or measured decode speed of one sequence, with the memory that it takes."""

    format: str
    tokens_per_s: float
    low: float
    high: float
    memory_bytes: float
    fits: bool
    basis: str


def estimate_here(
    shape: Architecture, stored: WeightFormat, found: Probe, machine: Machine, context_tokens: int = 2048
) -> LocalEstimate:
    """Decode speed of a format: one pass over the weights and the cache per token, plus the layers' meetings."""
    resident = weight_bytes(shape, stored)
    cache_bytes = kv_bytes_per_sequence(shape, context_tokens, kv_format("bf16"))
    needed = resident.total + cache_bytes + _BUFFERS_BYTES
    fits = needed < machine.available_bytes * (1 - _SPARE_SHARE)
    measured = found.measured.get(artifact_name(shape, stored))
    if measured:
        return LocalEstimate(
            stored.name, measured, measured * 0.9, measured * 1.1, needed, fits, "measured: first run here"
        )
    share = shape.experts_per_token / shape.experts if shape.experts else 0.0
    read = resident.dense + resident.head + share * resident.routed + cache_bytes / 2
    costs = _costs()
    token_s = (
        read * costs.formats.get(stored.name, costs.other) / found.read_bytes_per_s
        + shape.layers * costs.layer_s
    )
    speed = 1 / token_s
    basis = f"roofline: probe {found.read_bytes_per_s / 1e9:.1f} GB/s with {found.cores} threads"
    return LocalEstimate(
        stored.name, speed, speed * (1 - _SPREAD), speed * (1 + _SPREAD), needed, fits, basis
    )


def estimates_here(shape: Architecture, found: Probe, machine: Machine) -> list[LocalEstimate]:
    """Every format that llama.cpp users pick, the model's own file first when it is one."""
    names = [shape.native_format, *FORMATS] if shape.native_format else list(FORMATS)
    return [estimate_here(shape, weight_format(name), found, machine) for name in dict.fromkeys(names)]


def artifact_name(shape: Architecture, stored: WeightFormat) -> str:
    """The name under which a measured speed is kept."""
    return f"{shape.name} {stored.name}"


@dataclass(frozen=True)
class _Costs:
    layer_s: float
    vocabulary_s: float
    formats: dict[str, float]
    other: float


@cache
def _costs() -> _Costs:
    table = tomllib.loads(files("outpace.planner").joinpath("cpu_formats.toml").read_text(encoding="utf-8"))
    fixed, formats = table["fixed"], table["formats"]
    costs = {weight_format(name).name: float(cost) for name, cost in formats.items() if name != "other"}
    return _Costs(float(fixed["layer_s"]), float(fixed["vocabulary_s"]), costs, float(formats["other"]))
