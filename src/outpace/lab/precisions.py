"""The precision of a deployment from asking to proof: what control calls; compose binds it."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from outpace.engines import facts
from outpace.hardware.machine import Machine, machine_name
from outpace.lab.canaries import Canaries, gate_and_record
from outpace.lab.candidates import side_on
from outpace.lab.gate import GateOrder, Side, engine_version
from outpace.lab.making import Product, Source, find_product, produce, reference_format, source_of
from outpace.lab.proven import formats_best_first
from outpace.lab.speed import THREADS, SpeedStore, measure_speeds
from outpace.precision.choice import Choice, Option, choose, forced, next_safer
from outpace.precision.gguf_maker import why_not_fitted
from outpace.precision.items import ItemSet, shipped_items
from outpace.precision.recipes import recipe
from outpace.precision.verdict import Subject, Verdict, VerdictStore
from outpace.values.clock import Clock

# Formats that `auto` considers for llama.cpp on a CPU, besides the one that was shipped.
AUTO_FORMATS = ("q4_0", "q4_mix", "q4_fit", "q8_0")
# Fitting takes four minutes of processor time for 135 million parameters; for larger models it is made when asked for.
MOST_FITTED_PARAMETERS = 500_000_000
DEFAULT_KV = facts.DEFAULT_KV["llamacpp"]
# KV formats that `auto` considers with the weights that it takes.
AUTO_KV = (DEFAULT_KV, "q8_0")
_ROUNDS = 3
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
        self._clock = clock
        self._items = items or shipped_items()
        self._speeds = SpeedStore(artifacts, self._machine)
        self._verdicts = VerdictStore(artifacts)
        self._canaries = Canaries(artifacts, clock)

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
        facts.kv_settings("llamacpp", kv)
        if precision not in ("auto", source.precision) or kv != DEFAULT_KV:
            return self._named(source, precision, kv, allows_unproven)
        if precision == source.precision:
            return Chosen(choice=_as_shipped(source), product=produce(source, precision, self._artifacts))
        options = [o for o in self._options(source) if kv_precision in ("auto", o.kv_precision)]
        failed |= {(o.precision, o.kv_precision) for o in options if self._has_missed(source, o)}
        if failed:
            # What is left must hold the reference: nothing that was rounded is safer.
            produce(source, reference_format(source), self._artifacts)
            options = self._options(source)
        choice = next_safer(options, failed) if failed else choose(options)
        return Chosen(choice=choice, product=produce(source, choice.precision, self._artifacts))

    async def prove(self, model: str, say: Say = lambda what: None) -> Chosen:
        """Make and measure what `auto` considers, gate what is faster, fastest first, until one passes.

        Long work on one or two cores; requests go on being served meanwhile. Verdicts, speeds and canaries are kept.
        """
        source = await asyncio.to_thread(source_of, model, self._artifacts)
        names = await asyncio.to_thread(auto_formats, source)
        products = {}
        for name in names:
            say(f"making {name}")
            products[name] = await asyncio.to_thread(produce, source, name, self._artifacts)
        await self._measure_missing([(product, DEFAULT_KV) for product in products.values()], say)
        best = await self._gate_faster(model, source, products, say)
        kept = [(products[name], DEFAULT_KV) for name in dict.fromkeys((source.precision, best))]
        others = [(products[best], kv) for kv in AUTO_KV if kv != DEFAULT_KV]
        await self._measure_missing([*kept, *others], say)
        await self._gate_faster(model, source, products, say)
        shipped = products[source.precision].side
        if not self._canaries.has(shipped):
            await self._canaries.keep(source.model, shipped, source.context_tokens)
        return await asyncio.to_thread(self.choose, model)

    async def prove_on(self, engine: str, model: str, say: Say = lambda what: None) -> Verdict | None:
        """Gate what `engine` may serve, best first, until one passes; the last verdict. None: nothing to gate.

        Long work, as `prove`. Formats come best first, and for each the KV formats too.
        """
        source = await asyncio.to_thread(source_of, model, self._artifacts)
        version, verdict = engine_version(engine), None
        for name in formats_best_first(source.precision):
            side = await asyncio.to_thread(side_on, engine, source, name, self._artifacts)
            for kv in facts.GATED_KV[engine]:
                candidate = msgspec.structs.replace(side, kv_precision=kv)
                verdict = self._verdict(source, candidate, version)
                if verdict is None:
                    say(f"gating {name} with KV {kv} on {engine}")
                    verdict = await self.gate(source, candidate)
                if verdict.outcome == "pass":
                    return verdict
        return verdict

    async def _gate_faster(self, model: str, source: Source, products: dict[str, Product], say: Say) -> str:
        """Gate what is faster than what is served, fastest first, until nothing is left; the precision then taken."""
        while True:
            choice = (await asyncio.to_thread(self.choose, model)).choice
            if not choice.to_gate:
                return choice.precision
            candidate = choice.to_gate[0]
            say(f"gating {candidate.title}")
            await self.gate(source, products[candidate.precision].at_kv(candidate.kv_precision))

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
        return await gate_and_record(order, self._clock)

    # -- parts ----------------------------------------------------------------------------------

    def _named(self, source: Source, precision: str, kv: str, allows_unproven: bool) -> Chosen:
        """A pair of which at least one is asked for by name: the fastest proven, else what is forced."""
        names = (source.precision, *AUTO_FORMATS) if precision == "auto" else (precision,)
        options = [option for name in names if (option := self._option(source, name, kv, is_named=True))]
        proven = [option for option in options if option.outcome == "pass"]
        fastest = max(proven, key=lambda option: option.output_tokens_per_s, default=None)
        wanted = fastest.precision if fastest else names[0]
        product = produce(source, wanted, self._artifacts)
        verdict = self._verdict(source, product.at_kv(kv))
        choice = forced(wanted, kv, verdict, allows_unproven=allows_unproven)
        return Chosen(choice=choice, product=product)

    def _options(self, source: Source) -> list[Option]:
        """Every format with a measured speed, and the shipped one in any case."""
        names = dict.fromkeys((source.precision, *AUTO_FORMATS, reference_format(source)))
        options = [self._option(source, name, kv) for name in names for kv in AUTO_KV]
        return [option for option in options if option is not None]

    def _option(self, source: Source, name: str, kv: str, *, is_named: bool = False) -> Option | None:
        """None for what is not made or not measured, unless it is asked for by name or shipped."""
        is_shipped = name == source.precision and kv == DEFAULT_KV
        product = find_product(source, name, self._artifacts)
        speed = self._speeds.find(product.sha256, kv) if product else None
        if product and is_named and speed is None:
            # Among weights the order is the same at any KV format.
            speed = self._speeds.find(product.sha256, DEFAULT_KV)
        is_reference = name == reference_format(source) and kv == DEFAULT_KV
        if product is None or (speed is None and not (is_shipped or is_reference or is_named)):
            return None
        return Option(
            precision=name,
            kv_precision=kv,
            output_tokens_per_s=speed.output_tokens_per_cpu_s if speed else 0.0,
            speed_basis="measured",
            weights_bytes=product.size_bytes,
            verdict=self._verdict(source, product.at_kv(kv)),
            is_shipped=is_shipped,
            is_reference=is_reference,
        )

    def _has_missed(self, source: Source, option: Option) -> bool:
        product = find_product(source, option.precision, self._artifacts)
        return product is not None and self._canaries.has_missed(product.at_kv(option.kv_precision))

    def _verdict(self, source: Source, side: Side, version: str | None = None) -> Verdict | None:
        """The newest verdict on these very bytes, for this engine (llama.cpp unless told) and machine."""
        known = self._verdicts.for_model(source.model, self._machine, version or engine_version())
        return next((verdict for verdict in known if _is_of(verdict.subject, side)), None)

    async def _measure_missing(self, pairs: Sequence[tuple[Product, str]], say: Say) -> None:
        """All of them in turns when one is missing: only figures of one run are compared."""
        if all(self._speeds.find(product.sha256, kv) for product, kv in pairs):
            return
        say("measuring speeds")
        speeds = await measure_speeds(pairs, THREADS, _ROUNDS, self._clock)
        for (digest, kv), speed in speeds.items():
            self._speeds.keep(digest, kv, speed)


def auto_formats(source: Source) -> tuple[str, ...]:
    """The shipped format, and those that `auto` makes of it: a fitted one where the model is small and of a known kind.

    Reads the file's header. Raises WeightsInvalid.
    """
    is_fitted = source.parameters <= MOST_FITTED_PARAMETERS and why_not_fitted(source.path) is None
    made = (name for name in AUTO_FORMATS if name != source.precision)
    return (source.precision, *(name for name in made if is_fitted or not recipe(name).is_fitted))


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
