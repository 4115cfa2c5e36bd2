"""Joins engines and gate: two replicas side by side, the same prompts, a verdict that is kept."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from outpace.engines import facts
from outpace.engines.registry import engine
from outpace.lab.llamacpp_scorer import SETTINGS, LlamaScorer
from outpace.lab.openvino_scorer import openvino_scorer
from outpace.lab.replica import LabVariant, running
from outpace.lab.trace_cache import RecordingScorer, TokenScorer, recording_path
from outpace.precision.gate import Watch, run_gate
from outpace.precision.items import ItemSet
from outpace.precision.limits import limits_sha256
from outpace.precision.measures import ItemResult
from outpace.precision.verdict import Subject, Verdict, VerdictStore
from outpace.values.clock import Clock
from outpace.values.errors import InvalidInput

# Engines whose artifacts can be judged; references run on the first.
ENGINES = ("llamacpp", "openvino")
DEFAULT_ENGINE = ENGINES[0]
# Sequences that are asked at once.
PARALLEL = 8
OPENVINO_PARALLEL = 16
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
    engine: str = DEFAULT_ENGINE

    @property
    def engine_version(self) -> str:
        """Name and version of what it runs on."""
        return engine_version(self.engine)


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
            engine=self.candidate.engine,
            engine_version=self.candidate.engine_version,
            machine=self.machine,
            items_sha256=self.item_set.sha256,
            limits_sha256=limits_sha256(),
            reference_engine_version=self._other_engine_version,
        )

    @property
    def _other_engine_version(self) -> str:
        is_same = self.reference.engine == self.candidate.engine
        return "" if is_same else self.reference.engine_version


def require_engine(name: str) -> None:
    """Refuse an engine that no gate can judge, or that is not installed. Raises InvalidInput."""
    if name not in ENGINES:
        raise InvalidInput("--engine", f"no gate judges {name[:40]!r}; it judges {', '.join(ENGINES)}")
    if facts.engine_version(name) is None:
        raise InvalidInput("--engine", f"{name} is not installed: pip install {facts.distributions(name)[0]}")


def engine_version(engine: str = DEFAULT_ENGINE) -> str:
    """Name and version of an engine; verdicts hold for it."""
    return facts.engine_version(engine) or f"{engine} is not installed"


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
            if order.reference.engine != order.candidate.engine:
                await _require_same_tokens(recording, candidate, order)
            verdict, results = await run_gate(
                recording,
                candidate,
                order.item_set,
                order.subject,
                clock,
                watch or (lambda done, total, decision: None),
                stops_early=order.stops_early,
            )
            measured = msgspec.structs.replace(verdict, kv_bytes_per_token=candidate.kv_bytes_per_token)
            return measured, results
        finally:
            recording.keep()


@contextlib.asynccontextmanager
async def _scorer(order: GateOrder, side: Side, clock: Clock) -> AsyncIterator[TokenScorer]:
    if side.engine == "openvino":
        async with openvino_scorer(_variant(order, side, OPENVINO_PARALLEL)) as scorer:
            yield scorer
        return
    documents = tuple(dict.fromkeys(item.document for item in order.item_set.items if item.document))
    async with (
        running(engine(side.engine), _variant(order, side, PARALLEL), clock) as replica,
        LlamaScorer(replica, PARALLEL, documents) as llama,
    ):
        yield llama


def _variant(order: GateOrder, side: Side, parallel: int) -> LabVariant:
    return LabVariant(
        model=order.model,
        artifact_path=side.artifact_path,
        context_tokens=_context_tokens(order),
        parallel=parallel,
        threads=order.threads,
        artifacts_dir=str(order.folder),
        engine_settings=kv_settings(side.kv_precision, side.engine),
    )


async def _require_same_tokens(reference: TokenScorer, candidate: TokenScorer, order: GateOrder) -> None:
    """A token of one side must be the same text for the other. Raises InvalidInput naming what differs."""
    items = order.item_set.items
    for start in range(0, len(items), PARALLEL):
        batch = items[start : start + PARALLEL]
        said, own = await asyncio.gather(
            asyncio.gather(*map(reference.prompt_tokens, batch)),
            asyncio.gather(*map(candidate.prompt_tokens, batch)),
        )
        for item, expected, seen in zip(batch, said, own, strict=True):
            if expected != seen:
                raise _other_tokens(item.id, expected, seen, order)


def _other_tokens(
    item_id: str, expected: tuple[int, ...], seen: tuple[int, ...], order: GateOrder
) -> InvalidInput:
    pairs = enumerate(zip(expected, seen, strict=False))
    at = next((place for place, (left, right) in pairs if left != right), min(len(expected), len(seen)))
    return InvalidInput(
        "--engine",
        f"{order.candidate.engine} reads item {item_id} as other tokens than {order.reference.engine} "
        f"(from token {at}): their figures cannot be compared",
    )


def kv_settings(kv_precision: str, engine_name: str = DEFAULT_ENGINE) -> dict[str, str | int | float | bool]:
    """An engine's settings for a KV format; prompts of a gate are not worth keeping in llama.cpp's RAM."""
    settings = facts.kv_settings(engine_name, kv_precision)
    return {**settings, "cache_ram_mib": 0} if engine_name == DEFAULT_ENGINE else settings


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
        side.engine_version,
        order.item_set.sha256,
        SETTINGS,
    )
