"""A gate's outcome with its evidence, and where verdicts are kept."""

import hashlib
from pathlib import Path
from typing import Literal

import msgspec

from outpace.precision.limits import limits_sha256
from outpace.values.disk import write_whole
from outpace.values.errors import StorageFailed

Outcome = Literal["pass", "refuse", "undecided"]
Shown = Literal["below", "above", "open"]


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One metric: the mean seen, the confidence interval of the (capped) mean, and what it is held against."""

    name: str
    value: float
    low: float
    high: float
    limit: float
    num_items: int
    unit: str
    # What the items show: below the limit, above it, or nothing yet.
    shown: Shown


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """An item on which the two differ most, side by side."""

    item_id: str
    kind: str
    kl: float
    prompt: str
    reference: str
    candidate: str


class Subject(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a verdict holds for; any difference needs a gate of its own."""

    model: str
    precision: str
    kv_precision: str
    artifact_sha256: str
    reference_precision: str
    reference_kv_precision: str
    reference_sha256: str
    engine: str
    engine_version: str
    machine: str
    items_sha256: str
    limits_sha256: str
    # What the reference ran on; empty: on the same engine. Not written then: keys of older verdicts stay the same.
    reference_engine_version: str = ""

    @property
    def key(self) -> str:
        """One name for this subject."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Pass, refuse or undecided, and why."""

    outcome: Outcome
    reason: str
    subject: Subject
    metrics: tuple[Measured, ...]
    worst: tuple[Example, ...]
    num_items: int
    num_positions: int
    # Positions that free greedy decoding stays the same, median over items; None when none parted.
    median_divergence_tokens: float | None
    confidence: float
    decided_at: float
    duration_s: float
    # Of the candidate's keys and values, scales included, as its engine lays them out; None where it does not tell.
    kv_bytes_per_token: float | None = None

    def metric(self, name: str) -> Measured | None:
        """The metric of this name."""
        return next((measured for measured in self.metrics if measured.name == name), None)

    @property
    def summary(self) -> str:
        """One line for status: `pass: KL 0.021 (≤ 0.05), top-1 agreement 94.8 %, 212 items`."""
        kl, apart = self.metric("kl"), self.metric("disagreement")
        figures = [f"{self.outcome}"]
        if kl and apart:
            figures.append(
                f"KL {kl.value:.3f} (≤ {kl.limit:g}), top-1 agreement {1 - apart.value:.1%}, {self.num_items} items"
            )
        return ": ".join(figures)


class VerdictStore:
    """Verdicts as files, one per subject; a newer one replaces an older one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "verdicts"

    def find(self, subject: Subject) -> Verdict | None:
        """The verdict for exactly this subject."""
        return self._read(self._folder / f"{subject.key}.json")

    def all(self) -> list[Verdict]:
        """Every verdict, newest first."""
        verdicts = (self._read(path) for path in self._folder.glob("*.json"))
        found = [verdict for verdict in verdicts if verdict is not None]
        return sorted(found, key=lambda verdict: -verdict.decided_at)

    def for_model(self, model: str, machine: str, engine_version: str) -> list[Verdict]:
        """Every verdict on a model's formats that holds here, for this engine and under today's limits."""
        wanted = (model, machine, engine_version, limits_sha256())
        return [
            verdict
            for verdict in self.all()
            if (
                verdict.subject.model,
                verdict.subject.machine,
                verdict.subject.engine_version,
                verdict.subject.limits_sha256,
            )
            == wanted
        ]

    def keep(self, verdict: Verdict) -> Path:
        """Write it whole or not at all. Raises StorageFailed."""
        path = self._folder / f"{verdict.subject.key}.json"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, msgspec.json.format(msgspec.json.encode(verdict)))
        except OSError as error:
            raise StorageFailed(f"cannot keep the verdict: {error.strerror or error}") from error
        return path

    def _read(self, path: Path) -> Verdict | None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=Verdict)
        except (OSError, msgspec.DecodeError):
            # A verdict that cannot be read proves nothing: as if there were none.
            return None
