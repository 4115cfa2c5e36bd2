"""How fast llama.cpp will decode on this machine, from a probe and the model's shape, before anything is downloaded.

Real runs correct it: each tells how far the machine, and one format on it, is from the prediction, and a format that
never ran here takes the machine's part.
"""

import math
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from outpace.hardware.machine import Machine
from outpace.hardware.probe import Probe, Run, with_run
from outpace.precision.formats import WeightFormat, kv_format, weight_format
from outpace.precision.memory import kv_bytes_per_sequence, weight_bytes
from outpace.values.architecture import Architecture
from outpace.values.units import MIB

# llama.cpp's own buffers beside weights and cache.
_BUFFERS_BYTES = 200 * MIB
# Left for the system; a machine that swaps decodes at the speed of its disk.
_SPARE_SHARE = 0.1
# Logs of measured over predicted: how far machines, formats on a machine, and runs of a shared machine vary.
_MACHINE_LOG, _FORMAT_LOG, _RUN_LOG = 0.2, 0.12, 0.08
# A run further off than this factor was disturbed; it stands for itself and teaches nothing about other formats.
_FURTHEST_LOG = math.log(3)
_Z80 = 1.2816
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


@dataclass(frozen=True)
class Correction:
    """The log of measured over predicted that a format's runs are expected to show, and how sure that is."""

    log: float
    spread_log: float
    runs: int
    # Runs that were too far off to say something about the machine: it was busy with other work.
    odd_runs: int
    is_own_format: bool


def correction(runs: Iterable[Run], format_name: str) -> Correction:
    """What pairs of predicted and measured speeds teach about a format: a machine's part and the format's own.

    The posterior of two normal effects: log(measured / predicted) = machine + format + noise.
    """
    logs = [(run.format, math.log(run.measured / run.predicted)) for run in runs]
    pairs = [(name, log) for name, log in logs if abs(log) <= _FURTHEST_LOG]
    odd = len(logs) - len(pairs)
    own = sum(name == format_name for name, _ in pairs)
    if not pairs:
        return Correction(0.0, math.hypot(_MACHINE_LOG, _FORMAT_LOG), 0, odd, is_own_format=False)
    names = [name for name, _ in pairs]
    left = np.array([value for _, value in pairs])
    same = np.equal.outer(np.array(names), np.array(names))
    covariance = _MACHINE_LOG**2 + _FORMAT_LOG**2 * same + _RUN_LOG**2 * np.eye(len(pairs))
    related = _MACHINE_LOG**2 + _FORMAT_LOG**2 * (np.array(names) == format_name)
    gain = np.linalg.solve(covariance, related)
    variance = _MACHINE_LOG**2 + _FORMAT_LOG**2 - float(gain @ related) + _RUN_LOG**2
    return Correction(float(gain @ left), math.sqrt(variance), len(pairs), odd, is_own_format=own > 0)


def estimate_here(
    shape: Architecture, stored: WeightFormat, found: Probe, machine: Machine, context_tokens: int = 2048
) -> LocalEstimate:
    """Decode speed of a format: what the probe says, corrected by the runs that this machine has seen."""
    resident = weight_bytes(shape, stored)
    cache_bytes = kv_bytes_per_sequence(shape, context_tokens, kv_format("bf16"))
    needed = resident.total + cache_bytes + _BUFFERS_BYTES
    fits = needed < machine.available_bytes * (1 - _SPARE_SHARE)
    run = found.runs.get(artifact_name(shape, stored))
    if run:
        low, high = run.measured * math.exp(-_Z80 * _RUN_LOG), run.measured * math.exp(_Z80 * _RUN_LOG)
        basis = f"measured here; the probe had said {run.predicted:.0f}"
        return LocalEstimate(stored.name, run.measured, low, high, needed, fits, basis)
    learned = correction(found.runs.values(), stored.name)
    speed = probed_tokens_per_s(shape, stored, found, context_tokens) * math.exp(learned.log)
    width = math.exp(_Z80 * learned.spread_log)
    return LocalEstimate(
        stored.name, speed, speed / width, speed * width, needed, fits, _basis(found, learned)
    )


def _basis(found: Probe, learned: Correction) -> str:
    probed = f"probe {found.read_bytes_per_s / 1e9:.1f} GB/s with {found.cores} threads"
    if learned.odd_runs:
        probed += f", {learned.odd_runs} run{'s' if learned.odd_runs > 1 else ''} more than 3x off not used"
    if not learned.runs:
        return f"roofline: {probed}"
    which = "of this format too" if learned.is_own_format else "of other formats"
    count = f"{learned.runs} run{'s' if learned.runs > 1 else ''}"
    return f"calibrated: {probed}, {math.exp(learned.log):.2f}x by {count} here {which}"


def probed_tokens_per_s(
    shape: Architecture, stored: WeightFormat, found: Probe, context_tokens: int = 2048
) -> float:
    """By the probe alone: one pass over the weights and half the cache per token, plus the layers' meetings."""
    resident = weight_bytes(shape, stored)
    cache_bytes = kv_bytes_per_sequence(shape, context_tokens, kv_format("bf16"))
    share = shape.experts_per_token / shape.experts if shape.experts else 0.0
    read = resident.dense + resident.head + share * resident.routed + cache_bytes / 2
    costs = _costs()
    cost = costs.formats.get(stored.name, costs.other)
    return 1 / (read * cost / found.read_bytes_per_s + shape.layers * costs.layer_s)


def with_real_run(found: Probe, shape: Architecture, stored: WeightFormat, tokens_per_s: float) -> Probe:
    """The probe with a real speed kept beside its own prediction. Raises InvalidInput for a speed that is none."""
    run = Run(format=stored.name, predicted=probed_tokens_per_s(shape, stored, found), measured=tokens_per_s)
    return with_run(found, artifact_name(shape, stored), run)


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
    formats: dict[str, float]
    other: float


@cache
def _costs() -> _Costs:
    table = tomllib.loads(files("outpace.planner").joinpath("cpu_formats.toml").read_text(encoding="utf-8"))
    fixed, formats = table["fixed"], table["formats"]
    costs = {weight_format(name).name: float(cost) for name, cost in formats.items() if name != "other"}
    return _Costs(float(fixed["layer_s"]), costs, float(formats["other"]))
