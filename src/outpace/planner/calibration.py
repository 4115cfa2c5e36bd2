"""A calibration: fitted quantities, residual corrections and error bars, as versioned data."""

import math
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

import msgspec

from outpace.planner.setups import Setup
from outpace.planner.traits import configuration_of, kind_of, traits, version_of
from outpace.values.errors import InvalidInput

SCHEMA = 2
# Which left-out rows resemble a setup of a novelty, nearest first.
_SCHEMES_BY_NOVELTY = {
    "shape": ("shape", "near", "family"),
    "near": ("near", "family"),
    "device": ("device", "family"),
    "model": ("model", "family"),
    "engine": ("version", "family"),
    "family": ("family",),
    "far": ("family",),
}


class Spread(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Left-out residuals of a kind: logs of measured over predicted at 10 % and 90 %, and how many."""

    low: float
    high: float
    rows: int


class Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the fit has rows of; anything else is further from the evidence."""

    families: frozenset[str]
    devices: frozenset[str]
    models: frozenset[str]
    generations: frozenset[str]
    configurations: frozenset[str]


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The stored result of a fit; `spreads` are keyed by novelty and kind."""

    schema: int
    created_on: str
    source_sha256: str
    rows: int
    left_out: dict[str, int]
    logs: dict[str, float]
    corrections: dict[str, float]
    spreads: dict[str, Spread]
    accuracy: dict[str, dict[str, float]]
    # By scheme and quantity: shares of left-out rows inside intervals made from other groups, and device pairs
    # whose faster one was named right, of how many.
    coverage: dict[str, dict[str, float]]
    ranked: dict[str, dict[str, tuple[int, int]]]
    seen: Seen

    def correction(self, setup: Setup) -> float:
        """What the residuals of related measurements add to the log of the prediction."""
        return math.fsum(self.corrections.get(trait.name, 0.0) * trait.value for trait in traits(setup))

    def novelty(self, setup: Setup) -> str:
        """What of a setup was never measured: its traffic (`shape`), the combination (`near`), one part, or `far`."""
        seen = self.seen
        missing = []
        if setup.device.family not in seen.families:
            missing.append("family")
        elif setup.device.name not in seen.devices:
            missing.append("device")
        if setup.shape.name not in seen.models:
            missing.append("model")
        if setup.generation.name not in seen.generations:
            missing.append("engine")
        if missing:
            return missing[0] if len(missing) == 1 else "far"
        return "shape" if configuration_of(setup) in seen.configurations else "near"

    def spread(self, setup: Setup) -> Spread:
        """The error bar of a setup's kind and novelty, from the most specific set of left-out rows that is large."""
        novelty, quantity = self.novelty(setup), setup.metric.quantity
        for scheme in _SCHEMES_BY_NOVELTY[novelty]:
            found = self.spreads.get(f"{scheme}/{kind_of(setup)}") or self.spreads.get(f"{scheme}/{quantity}")
            if found:
                return found
        return Spread(low=-1.0, high=1.0, rows=0)


def seen_by(setups: list[Setup]) -> Seen:
    """What a list of setups covers."""
    return Seen(
        families=frozenset(s.device.family for s in setups),
        devices=frozenset(s.device.name for s in setups),
        models=frozenset(s.shape.name for s in setups),
        generations=frozenset(s.generation.name for s in setups),
        configurations=frozenset(configuration_of(s) for s in setups),
    )


@cache
def shipped_calibration() -> Calibration:
    """The calibration that comes with this version of Outpace."""
    return decode(files("outpace.planner").joinpath("calibration.json").read_bytes(), "calibration.json")


def load_calibration(path: Path) -> Calibration:
    """A calibration from a file. Raises InvalidInput when it is not one."""
    try:
        return decode(path.read_bytes(), str(path))
    except OSError as problem:
        raise InvalidInput("calibration", f"{path} cannot be read: {problem}") from problem


def decode(text: bytes, name: str) -> Calibration:
    """Parse a calibration. Raises InvalidInput for another schema or damaged data."""
    try:
        found = msgspec.json.decode(text, type=Calibration)
    except msgspec.MsgspecError as problem:
        raise InvalidInput("calibration", f"{name} is not a calibration: {problem}") from problem
    if found.schema != SCHEMA:
        raise InvalidInput(
            "calibration", f"{name} has schema {found.schema}, this version reads {SCHEMA}; fit again"
        )
    return found


def encode(calibration: Calibration) -> bytes:
    """The file's bytes: readable, stable order, rounded to what the data support."""
    rounded = msgspec.structs.replace(
        calibration, logs=_rounded(calibration.logs), corrections=_rounded(calibration.corrections)
    )
    return msgspec.json.format(msgspec.json.encode(rounded, order="deterministic"), indent=1) + b"\n"


def _rounded(table: Mapping[str, float]) -> dict[str, float]:
    return {
        name: round(value, 3 if abs(value) < 1 else 4) for name, value in table.items() if abs(value) >= 1e-3
    }


__all__ = [
    "Calibration",
    "Spread",
    "decode",
    "encode",
    "load_calibration",
    "seen_by",
    "shipped_calibration",
    "version_of",
]
