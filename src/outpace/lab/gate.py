"""Joins engines and gate: two replicas side by side, the same prompts, a verdict that is kept."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from outpace.engines import facts
from outpace.engines.registry import engine
from outpace.lab.llamacpp_scorer import SETTINGS, LlamaScorer
from outpace.lab.replica import LabVariant, running
from outpace.lab.trace_cache import RecordingScorer, recording_path
from outpace.precision.gate import Watch, limits_sha256, run_gate
from outpace.precision.items import ItemSet
from outpace.precision.measures import ItemResult
from outpace.precision.traces import Scorer
from outpace.precision.verdict import Subject, Verdict, VerdictStore
from outpace.values.clock import Clock

# Sequences that are asked at once.
PARALLEL = 8
_SHORTEST_CONTEXT_TOKENS = 1024
# A token of any text is at least this many bytes on average, in the worst language of the shipped set.
_BYTES_PER_TOKEN = 2.0
_ROOM_TOKENS = 256


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One side of a gate: an artifact at its precisions."""

    artifact_path: Path
    artifact_sha256: str
    precision: str
    kv_precision: str = "f16"


class GateOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What to compare, where, and on which items."""

    model: str
    context_tokens: int
    reference: Side
    candidate: Side
    item_set: ItemSet
    machine: str
    # HOME/artifacts: verdicts and the reference's recorded answers lie below it.
    folder: Path
    stops_early: bool = True
    # llama.cpp spins between threads: with one each, both sides and live traffic share two cores in peace.
    threads: int = 1

    @property
    def subject(self) -> Subject:
        """What the verdict will hold for."""
        return Subject(
            model=self.model,
            precision=self.candidate.precision,
            kv_precision=self.candidate.kv_precision,
            artifact_sha256=self.candidate.artifact_sha256,
            reference_precision=self.reference.precision,
            reference_kv_precision=self.reference.kv_precision,
            reference_sha256=self.reference.artifact_sha256,
            engine="llamacpp",
            engine_version=engine_version(),
            machine=self.machine,
            items_sha256=self.item_set.sha256,
            limits_sha256=limits_sha256(),
        )


def engine_version() -> str:
    """Version of the engine that gates run on."""
    return facts.engine_version("llamacpp") or "llama.cpp is not installed"


async def gate(order: GateOrder, clock: Clock, watch: Watch | None = None) -> Verdict:
    """The verdict on the candidate, kept. Raises EngineFailed, InvalidInput, StorageFailed."""
    verdict, _ = await gate_with_results(order, clock, watch)
    VerdictStore(order.folder).keep(verdict)
    return verdict


async def gate_with_results(
    order: GateOrder, clock: Clock, watch: Watch | None = None
) -> tuple[Verdict, list[ItemResult]]:
    """The verdict with the result of every item, for those who study gates."""
    path = _recording(order)
    async with (
        _scorer(order, order.reference, clock) as reference,
        _scorer(order, order.candidate, clock) as candidate,
    ):
        recording = RecordingScorer(reference, path)
        try:
            return await run_gate(
                recording,
                candidate,
                order.item_set,
                order.subject,
                clock,
                watch or (lambda done, total, decision: None),
                stops_early=order.stops_early,
            )
        finally:
            recording.keep()


@contextlib.asynccontextmanager
async def _scorer(order: GateOrder, side: Side, clock: Clock) -> AsyncIterator[Scorer]:
    documents = tuple(dict.fromkeys(item.document for item in order.item_set.items if item.document))
    variant = LabVariant(
        model=order.model,
        artifact_path=side.artifact_path,
        context_tokens=_context_tokens(order),
        parallel=PARALLEL,
        threads=order.threads,
        engine_settings=kv_settings(side.kv_precision),
    )
    async with (
        running(engine("llamacpp"), variant, clock) as replica,
        LlamaScorer(replica, PARALLEL, documents) as scorer,
    ):
        yield scorer


def kv_settings(kv_precision: str) -> dict[str, str | int | float | bool]:
    """llama.cpp's settings for a KV format; prompts of a gate are not worth keeping in RAM."""
    return {**facts.kv_settings("llamacpp", kv_precision), "cache_ram_mib": 0}


def _context_tokens(order: GateOrder) -> int:
    longest_bytes = max(
        sum(len(turn.content.encode()) for turn in item.messages) for item in order.item_set.items
    )
    needed = int(longest_bytes / _BYTES_PER_TOKEN) + _ROOM_TOKENS
    return min(order.context_tokens, max(needed, _SHORTEST_CONTEXT_TOKENS))


def _recording(order: GateOrder) -> Path:
    side = order.reference
    return recording_path(
        order.folder,
        order.model,
        side.artifact_sha256,
        side.kv_precision,
        engine_version(),
        order.item_set.sha256,
        SETTINGS,
    )
