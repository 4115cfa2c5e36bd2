"""A calibration: fitted quantities, residual corrections and error bars, as versioned data."""

import math
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

import msgspec

from outpace.planner.setups import Setup
from outpace.planner.traits import configuration_of, is_version_named, kind_of, traits, version_of
from outpace.values.errors import InvalidInput

SCHEMA = 4
# Which left-out rows resemble a setup of which this is new, nearest first.
_SCHEMES_BY_NOVELTY = {
    "shape": ("shape", "near", "family"),
    "near": ("near", "family"),
    "device": ("device", "family"),
    "model": ("model", "family"),
    "version": ("version", "family"),
    "engine": ("version", "family"),
    "family": ("family",),
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
    versions: frozenset[str]
    configurations: frozenset[str]


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The stored result of a fit; `spreads` are keyed by scheme and kind."""

    schema: int
    created_on: str
    source_sha256: str
    rows: int
    left_out: dict[str, int]
    logs: dict[str, float]
    corrections: dict[str, float]
    # By what is new and quantity, such as `model/itl`: what is added to the log of a prediction.
    shifts: dict[str, float]
    spreads: dict[str, Spread]
    accuracy: dict[str, dict[str, float]]
    # By scheme and quantity: shares of left-out rows inside intervals made from other groups, and device pairs
    # whose faster one was named right, of how many.
    coverage: dict[str, dict[str, float]]
    ranked: dict[str, dict[str, tuple[int, int]]]
    # By scheme and promise: errors of who remembers a run's repeats (`near`) or other versions, and the model's own.
    scatter: dict[str, dict[str, float]]
    seen: Seen

    def correction(self, setup: Setup) -> float:
        """What the residuals of related measurements add to the log of the prediction."""
        known = math.fsum(self.corrections.get(trait.name, 0.0) * trait.value for trait in traits(setup))
        return known + self.shift(setup)

    def shift(self, setup: Setup) -> float:
        """What is added to the log of a quantity for all that is new about a setup; part of its correction."""
        return math.fsum(self.shifts.get(f"{part}/{setup.metric.quantity}", 0.0) for part in self.news(setup))

    def news(self, setup: Setup) -> tuple[str, ...]:
        """What of a setup was never measured: its parts, else the combination (`near`), else its traffic (`shape`).

        A version that is not named is taken as one of those measured; intervals of known versions hold it (lab log,
        2026-11-29), and not one that is not among them, such as `latest`.
        """
        seen = self.seen
        parts = []
        if setup.device.family not in seen.families:
            parts.append("family")
        elif setup.device.name not in seen.devices:
            parts.append("device")
        if setup.shape.name not in seen.models:
            parts.append("model")
        if setup.generation.name not in seen.generations:
            parts.append("engine")
        elif is_version_named(setup) and version_of(setup) not in seen.versions:
            parts.append("version")
        if parts:
            return tuple(parts)
        return ("shape",) if configuration_of(setup) in seen.configurations else ("near",)

    def novelty(self, setup: Setup) -> str:
        """What is new in one word or two; `far` when it is more than one part beside the engine's version."""
        news = self.news(setup)
        parts = [part for part in news if part != "version"]
        if len(parts) > 1:
            return "far"
        return "family" if parts == ["family"] else ", ".join(news)

    def spread(self, setup: Setup) -> Spread:
        """The error bar of a setup's kind: of all that is new the widest, each from its nearest left-out rows.

        Two new parts may add up, so the rows of left-out families count then as well. What has a new part is never
        surer than a setup of known parts, although few groups may err less than many by luck.
        """
        news = self.news(setup)
        parts = news if len(news) == 1 else (*news, "family")
        if news not in (("shape",), ("near",)):
            parts = (*parts, "near")
        found = [bar for part in parts if (bar := self._spread_of(part, setup))]
        return max(found, key=lambda bar: bar.high - bar.low, default=Spread(low=-1.0, high=1.0, rows=0))

    def _spread_of(self, part: str, setup: Setup) -> Spread | None:
        kind, quantity = kind_of(setup), setup.metric.quantity
        for scheme in _SCHEMES_BY_NOVELTY[part]:
            found = self.spreads.get(f"{scheme}/{kind}") or self.spreads.get(f"{scheme}/{quantity}")
            if found:
                return found
        return None


def seen_by(setups: list[Setup]) -> Seen:
    """What a list of setups covers."""
    return Seen(
        families=frozenset(s.device.family for s in setups),
        devices=frozenset(s.device.name for s in setups),
        models=frozenset(s.shape.name for s in setups),
        generations=frozenset(s.generation.name for s in setups),
        versions=frozenset(version_of(s) for s in setups if is_version_named(s)),
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
        calibration,
        logs=_rounded(calibration.logs),
        corrections=_rounded(calibration.corrections),
        shifts=_rounded(calibration.shifts),
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
