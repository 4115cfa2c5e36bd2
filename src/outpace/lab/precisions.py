"""The precision of a deployment from asking to proof: what control calls; compose binds it."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from outpace.engines.registry import engine
from outpace.hardware.machine import Machine
from outpace.lab.gate import GateOrder, Side, engine_version, gate, machine_name
from outpace.lab.llamacpp_scorer import LlamaScorer
from outpace.lab.making import Product, Source, find_product, produce, reference_format, source_of
from outpace.lab.replica import LabReplica, LabVariant, running
from outpace.lab.speed import SpeedStore, measure_speeds
from outpace.precision.canary import Canary, CanaryOutcome, canary_items, check, record
from outpace.precision.choice import Choice, Option, choose, forced, next_safer
from outpace.precision.items import ItemSet, shipped_items
from outpace.precision.verdict import Subject, Verdict, VerdictStore
from outpace.values.clock import Clock

# Formats that `auto` considers for llama.cpp on a CPU, besides the one that was shipped.
AUTO_FORMATS = ("q4_0", "q4_mix", "q8_0")
DEFAULT_KV = "f16"
_ROUNDS = 3
_CANARY_CONTEXT_TOKENS = 1024
# Told what is being done now, for status.
Say = Callable[[str], None]


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """What to serve: the choice with its reason, and the artifact of it."""

    choice: Choice
    product: Product


class Precisions:
    """Knows, makes, measures and proves the formats of this installation."""

    def __init__(self, artifacts: Path, machine: Machine, clock: Clock, items: ItemSet | None = None) -> None:
        self._artifacts = artifacts
        self._machine = machine_name(machine)
        self._threads = machine.cores
        self._clock = clock
        self._items = items or shipped_items()
        self._speeds = SpeedStore(artifacts, self._machine)
        self._verdicts = VerdictStore(artifacts)

    def choose(
        self,
        model: str,
        precision: str = "auto",
        kv_precision: str = "auto",
        *,
        allows_unproven: bool = False,
        failed: frozenset[tuple[str, str]] = frozenset(),
    ) -> Chosen:
        """What to serve now, by what is known now; it makes nothing and is quick, but reads files: call it in a thread.

        `failed` are (precision, KV precision) pairs whose canary failed. A precision given by name is made if need
        be. Raises InvalidInput for an unproven one without the flag, and what `produce` raises.
        """
        source = source_of(model, self._artifacts)
        kv = DEFAULT_KV if kv_precision == "auto" else kv_precision
        if precision not in ("auto", source.precision) or kv != DEFAULT_KV:
            return self._forced(source, precision, kv, allows_unproven)
        if precision == source.precision:
            return Chosen(choice=_as_shipped(source), product=produce(source, precision, self._artifacts))
        options = self._options(source)
        failed |= {
            (option.precision, option.kv_precision)
            for option in options
            if option.verdict and self._failed_mark(option.verdict.subject.artifact_sha256).exists()
        }
        choice = next_safer(options, failed) if failed else choose(options)
        return Chosen(choice=choice, product=produce(source, choice.precision, self._artifacts))

    async def prove(self, model: str, say: Say = lambda what: None) -> Chosen:
        """Make and measure what `auto` considers, gate what is faster, fastest first, until one passes.

        Long work on one or two cores; requests go on being served meanwhile. Verdicts, speeds and canaries are kept.
        """
        source = await asyncio.to_thread(source_of, model, self._artifacts)
        names = (source.precision, *(name for name in AUTO_FORMATS if name != source.precision))
        products = {}
        for name in names:
            say(f"making {name}")
            products[name] = await asyncio.to_thread(produce, source, name, self._artifacts)
        await self._measure_missing(list(products.values()), say)
        while waiting := (await asyncio.to_thread(self.choose, model)).choice.to_gate:
            say(f"gating {waiting[0].precision}")
            await self.gate(source, products[waiting[0].precision].side)
        return await asyncio.to_thread(self.choose, model)

    async def gate(self, source: Source, candidate: Side) -> Verdict:
        """The verdict on one candidate, kept; a pass is followed by the recording of its canary."""
        reference = await asyncio.to_thread(produce, source, reference_format(source), self._artifacts)
        order = GateOrder(
            model=source.model,
            context_tokens=source.context_tokens,
            reference=reference.side,
            candidate=candidate,
            item_set=self._items,
            machine=self._machine,
            folder=self._artifacts,
        )
        verdict = await gate(order, self._clock)
        if verdict.outcome == "pass":
            self._failed_mark(candidate.artifact_sha256).unlink(missing_ok=True)
            await self._record_canary(source, candidate)
        return verdict

    async def check_canary(self, replica: LabReplica, side: Side) -> CanaryOutcome | None:
        """Whether a replica answers as its variant did when it passed; None when nothing was recorded."""
        path = self._canary_path(side)
        if not path.exists():
            return None
        canary = msgspec.msgpack.decode(path.read_bytes(), type=Canary)
        async with LlamaScorer(replica, 1) as scorer:
            return await check(scorer, canary)

    async def canary_miss(self, address: str, token: str, variant: str) -> str | None:
        """Why a replica of the artifact `variant` (first digits of its hash) is not what was proven; None when it is.

        A miss is remembered until a gate passes again: `choose` takes the next best meanwhile, and says so.
        """
        path = next((self._artifacts / "canaries").glob(f"{variant}*-{DEFAULT_KV}.msgpack"), None)
        if path is None:
            return None
        canary = msgspec.msgpack.decode(path.read_bytes(), type=Canary)
        replica = LabReplica(address=address, token=token, pid=0, log=Path())
        async with LlamaScorer(replica, 1) as scorer:
            outcome = await check(scorer, canary)
        if not outcome.is_sound:
            self._failed_mark(canary.subject_key).write_text(outcome.reason, encoding="utf-8")
        return None if outcome.is_sound else outcome.reason

    # -- parts ----------------------------------------------------------------------------------

    def _forced(self, source: Source, precision: str, kv: str, allows_unproven: bool) -> Chosen:
        wanted = source.precision if precision == "auto" else precision
        product = produce(source, wanted, self._artifacts)
        side = msgspec.structs.replace(product.side, kv_precision=kv)
        verdict = self._verdict(source, side)
        choice = forced(wanted, kv, verdict, allows_unproven=allows_unproven)
        return Chosen(choice=choice, product=product)

    def _options(self, source: Source) -> list[Option]:
        """Every format with a measured speed, and the shipped one in any case."""
        names = dict.fromkeys((source.precision, *AUTO_FORMATS))
        options = [self._option(source, name) for name in names]
        return [option for option in options if option is not None]

    def _option(self, source: Source, name: str) -> Option | None:
        is_shipped = name == source.precision
        product = find_product(source, name, self._artifacts)
        speed = self._speeds.find(product.sha256, DEFAULT_KV) if product else None
        if not is_shipped and (product is None or speed is None):
            return None
        return Option(
            precision=name,
            kv_precision=DEFAULT_KV,
            output_tokens_per_s=speed.output_tokens_per_s if speed else 0.0,
            speed_basis="measured",
            weights_bytes=product.size_bytes if product else 0,
            verdict=self._verdict(source, product.side) if product else None,
            is_shipped=is_shipped,
            is_reference=name == reference_format(source),
        )

    def _verdict(self, source: Source, side: Side) -> Verdict | None:
        """The newest verdict on these very bytes, for this engine and machine."""
        known = self._verdicts.for_model(source.model, self._machine, engine_version())
        return next((verdict for verdict in known if _is_of(verdict.subject, side)), None)

    async def _measure_missing(self, products: Sequence[Product], say: Say) -> None:
        if all(self._speeds.find(product.sha256, DEFAULT_KV) for product in products):
            return
        say("measuring speeds")
        speeds = await measure_speeds(products, self._threads, _ROUNDS, self._clock)
        for digest, speed in speeds.items():
            self._speeds.keep(digest, DEFAULT_KV, speed)

    async def _record_canary(self, source: Source, side: Side) -> None:
        variant = LabVariant(
            model=source.model,
            artifact_path=side.artifact_path,
            context_tokens=min(source.context_tokens, _CANARY_CONTEXT_TOKENS),
            parallel=1,
            engine_settings={"cache_type_k": side.kv_precision, "cache_type_v": side.kv_precision},
        )
        async with (
            running(engine("llamacpp"), variant, self._clock) as replica,
            LlamaScorer(replica, 1) as scorer,
        ):
            canary = await record(scorer, side.artifact_sha256, self._clock.wall_s())
        assert len(canary.traces) == len(canary_items())
        path = self._canary_path(side)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(msgspec.msgpack.encode(canary))
        part.replace(path)

    def _failed_mark(self, artifact_sha256: str) -> Path:
        return self._artifacts / "canaries" / f"{artifact_sha256}.failed"

    def _canary_path(self, side: Side) -> Path:
        # Not by engine version: an upgrade must answer as before, or be gated anew.
        return self._artifacts / "canaries" / f"{side.artifact_sha256}-{side.kv_precision}.msgpack"


def _as_shipped(source: Source) -> Choice:
    return Choice(
        precision=source.precision,
        kv_precision=DEFAULT_KV,
        reason="as shipped, asked for by name",
        is_proven=True,
        to_gate=(),
        rejected=(),
    )


def _is_of(subject: Subject, side: Side) -> bool:
    return (subject.artifact_sha256, subject.kv_precision) == (side.artifact_sha256, side.kv_precision)
