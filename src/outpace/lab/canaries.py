"""Canaries kept on disk: recorded when a variant passes its gate, asked again after every start of a replica of it."""

from pathlib import Path

import msgspec

from outpace.engines import facts
from outpace.engines.registry import engine
from outpace.lab.gate import DEFAULT_ENGINE, GateOrder, Side, gate
from outpace.lab.llamacpp_scorer import LlamaScorer
from outpace.lab.replica import LabReplica, LabVariant, running
from outpace.precision.canary import Canary, canary_items, check, record
from outpace.precision.gate import Watch
from outpace.precision.verdict import Verdict
from outpace.values.clock import Clock

_CONTEXT_TOKENS = 1024


class Canaries:
    """What proven variants answered, by artifact and KV format, and which of them did not any more."""

    def __init__(self, artifacts: Path, clock: Clock) -> None:
        self._folder = artifacts / "canaries"
        self._clock = clock

    def has(self, side: Side) -> bool:
        """Whether the answers of this variant are recorded."""
        return self._path(canary_name(side)).exists()

    def has_missed(self, side: Side) -> bool:
        """Whether a replica of this variant missed since it was last recorded."""
        return self._mark(canary_name(side)).exists()

    async def keep(self, model: str, side: Side, context_tokens: int) -> None:
        """Record what the variant answers now, in a replica of its own; a miss of before is forgotten.

        Raises EngineFailed.
        """
        variant = LabVariant(
            model=model,
            artifact_path=side.artifact_path,
            context_tokens=min(context_tokens, _CONTEXT_TOKENS),
            parallel=1,
            engine_settings=facts.kv_settings("llamacpp", side.kv_precision),
        )
        async with (
            running(engine("llamacpp"), variant, self._clock) as replica,
            LlamaScorer(replica, 1) as scorer,
        ):
            canary = await record(scorer, side.artifact_sha256, self._clock.wall_s())
        assert len(canary.traces) == len(canary_items())
        path = self._path(canary_name(side))
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(msgspec.msgpack.encode(canary))
        part.replace(path)
        self._mark(canary_name(side)).unlink(missing_ok=True)

    async def miss(self, address: str, token: str, name: str) -> str | None:
        """Why a replica that has just come up is not what was recorded as `name`; None when it is, or nothing was.

        A miss is remembered until the variant is recorded again: it is not chosen meanwhile.
        """
        path = self._path(name)
        if not path.exists():
            return None
        canary = msgspec.msgpack.decode(path.read_bytes(), type=Canary)
        replica = LabReplica(address=address, token=token, pid=0, log=Path())
        async with LlamaScorer(replica, 1) as scorer:
            outcome = await check(scorer, canary)
        if not outcome.is_sound:
            self._mark(name).write_text(outcome.reason, encoding="utf-8")
        return None if outcome.is_sound else outcome.reason

    # Not by engine version: an upgrade must answer as before, or be gated anew.
    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.msgpack"

    def _mark(self, name: str) -> Path:
        return self._folder / f"{name}.failed"


async def gate_and_record(order: GateOrder, clock: Clock, watch: Watch | None = None) -> Verdict:
    """The verdict on the candidate; a pass is followed by the recording of its canary. Raises as `gate` does."""
    verdict = await gate(order, clock, watch)
    # A canary is asked through llama.cpp's own endpoint; on other engines there is none.
    if verdict.outcome == "pass" and order.candidate.engine == DEFAULT_ENGINE:
        await Canaries(order.folder, clock).keep(order.model, order.candidate, order.context_tokens)
    return verdict


def canary_name(side: Side) -> str:
    """The name under which a variant's answers are kept."""
    return f"{side.artifact_sha256}-{side.kv_precision}"
