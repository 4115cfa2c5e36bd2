"""Wires the rooms together; the only file that knows every room. `python -m outpace.compose PROCESS SETTINGS …`."""

import asyncio
import functools
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from outpace import __version__
from outpace import settings as settings_room
from outpace.engines.facts import (
    DEFAULT_KV,
    GATED_KV,
    engine_version,
    kv_settings,
    require_no_kv_settings,
)
from outpace.engines.speculation import (
    OFF,
    SWITCHED,
    require_no_speculation_settings,
    speculation_settings,
)
from outpace.settings import Settings
from outpace.values.clock import SystemClock
from outpace.values.deployment import DeploymentSpec
from outpace.values.errors import InvalidInput, OutpaceError
from outpace.values.home import Home
from outpace.values.money import Price

# Imported where they are used: a gateway worker must not pay for control's libraries, nor control for its doors.
if TYPE_CHECKING:
    from outpace.catalogue import Resolved as Found
    from outpace.control.parts import ControlParts, ControlSettings, Resolved
    from outpace.fleet.sizing import ReplicaSize
    from outpace.lab.precisions import Chosen
    from outpace.lab.profiled import Variant

DEFAULT_ENGINE = "llamacpp"
# Its sequences share the memory for keys and values by pages.
PAGED_ENGINE = "openvino"
_AS_SHIPPED = "as shipped; no faster format is proven here yet"


def load_settings(path: Path) -> Settings:
    """The settings that `outpace up` wrote for its processes."""
    return msgspec.json.decode(path.read_bytes(), type=Settings)


def main(argv: list[str]) -> None:
    """Become one of the platform's processes."""
    _log_as_json_lines()
    process, settings = argv[0], load_settings(Path(argv[1]))
    if process == "gateway":
        gateway_process(settings, int(argv[2]))
    elif process == "control":
        control_process(settings)
    else:
        raise SystemExit(f"unknown process {process!r}; known: control, gateway")


def gateway_process(settings: Settings, index: int) -> None:
    """One gateway worker."""
    from outpace.engines.registry import engine
    from outpace.gateway.app import Gateway
    from outpace.gateway.door import DoorLimits, door
    from outpace.gateway.keys import Keys
    from outpace.gateway.serve import Service
    from outpace.gateway.server import Worker, allow_many_files, run_worker
    from outpace.gateway.signals import WorkerSignals
    from outpace.gateway.watch import SnapshotWatch
    from outpace.metering import Counters, JournalWriter, Meter, new_boot_id

    clock = SystemClock()
    home = settings_room.home_of(settings)
    allow_many_files()
    boot_id = new_boot_id(clock)
    journal = JournalWriter(home.journal, boot_id)
    column = Counters.open(home.counters).claim_column(boot_id)
    meter = Meter(journal, column, clock)
    service = Service(meter, functools.cache(engine), settings_room.secret, clock)
    service.set_up(settings.queue_order, settings.workers)
    watch = SnapshotWatch(home.snapshot, clock, service.take_over)
    signals = WorkerSignals(
        home.sockets, index, settings.workers, clock, service.demand, watch.look, service.see_peers
    )
    service.on_held = signals.send_now
    gateway = Gateway(service=service, keys=Keys(clock), snapshot=lambda: watch.current, clock=clock)
    run_worker(
        Worker(gateway=gateway, service=service, watch=watch, signals=signals, journal=journal, clock=clock),
        host=settings.host,
        port=settings.port,
        grace_s=settings.grace_s,
        protocol=door(DoorLimits(max_body_bytes=settings.max_body_bytes)),
    )


def control_process(settings: Settings) -> None:
    """Control: what is wanted, the loop that keeps it so, the ledger, the admin door."""
    from outpace.control.service import run_control

    asyncio.run(run_control(_control_settings(settings), control_parts(settings)))


def control_parts(settings: Settings) -> "ControlParts":
    """Everything that control is composed of."""
    from outpace.control.parts import ControlParts, Credentials, ProgramList
    from outpace.engines.registry import engine
    from outpace.fleet.local import LocalPool, OnRay

    clock, home = SystemClock(), settings_room.home_of(settings)
    supervisor = LocalPool(home, clock)
    models = Models(home, settings.workers, is_one_machine=settings.ray is None)

    async def programs() -> ProgramList:
        return ProgramList([child for child in await supervisor.everything() if not child.is_replica])

    return ControlParts(
        home=home,
        clock=clock,
        credentials=msgspec.json.decode(home.credentials.read_bytes(), type=Credentials),
        pool=supervisor if settings.ray is None else OnRay(home, clock),
        has_machines=settings.ray is not None,
        memory_bytes=memory_bytes() if settings.ray is None else None,
        programs=programs,
        engine=functools.cache(engine),
        resolve=models.resolve,
        pull=models.pull,
        list_price=models.list_price,
        models=models.listing,
        secret=settings_room.secret,
        canary=models.canary_miss,
        prove=None if settings.prove == "off" else functools.partial(_prove, home),
        keep_profile=models.profiled.store.keep,
        profile=None if settings.profile == "off" else functools.partial(_profile, home),
    )


async def _prove(home: Home, model: str, held: Callable[[], bool]) -> None:
    """Run `outpace.lab.prove` for a model. Raises EngineFailed."""
    from outpace.lab.apart import run_apart

    await run_apart(home.logs / "prove.log", "outpace.lab.prove", str(home.artifacts), model, held=held)


async def _profile(home: Home, spec: DeploymentSpec, engine: str) -> None:
    """Run `outpace.lab.profile_one` for a spec's variant on an engine; cancelling ends it. Raises EngineFailed."""
    from outpace.lab.apart import run_apart

    models = Models(home)
    variant = await asyncio.to_thread(models.variant, spec, engine)
    encoded = msgspec.json.encode(variant).decode()
    await run_apart(home.logs / "profile.log", "outpace.lab.profile_one", str(home.profiles), encoded)


def _control_settings(settings: Settings) -> "ControlSettings":
    from outpace.control.parts import ControlSettings

    return ControlSettings(
        admin_host=settings.admin_host,
        admin_port=settings.admin_port,
        database=settings.database,
        billing=settings.billing,
        version=__version__,
    )


class Models:
    """The catalogue as control sees it: specs resolved to what a replica needs."""

    def __init__(self, home: Home, workers: int = 1, *, is_one_machine: bool = True) -> None:
        from outpace.catalogue import ArtifactStore
        from outpace.lab.profiled import Profiled

        self._workers, self._room_bytes = workers, memory_bytes() if is_one_machine else sys.maxsize
        self._is_one_machine = is_one_machine
        self._artifacts = home.artifacts
        self._store = ArtifactStore(home.artifacts)
        # What was chosen, as long as verdicts and speeds on disk are the same.
        self._choices: dict[tuple[object, ...], Chosen] = {}
        self.profiled = Profiled(home.artifacts, home.profiles)

    def resolve(self, spec: DeploymentSpec) -> "Resolved":
        """What is known of a spec's model. Raises ModelNotFound, WeightsInvalid, InvalidInput."""
        from outpace.catalogue import resolve
        from outpace.control.formats import unpacked
        from outpace.control.parts import Resolved
        from outpace.fleet.sizing import require_room

        if spec.external is not None:
            from outpace.control.formats import elsewhere

            return elsewhere(spec.external)
        assert spec.model is not None, "a spec names a model or an external API"
        found = resolve(spec.model, self._shipped_precision(spec), self._store)
        engine = found.engine if spec.engine == "auto" else spec.engine
        engine = DEFAULT_ENGINE if engine == "auto" else engine
        size = self._size(found, spec, pages_kv=engine == PAGED_ENGINE)
        resolved = Resolved(
            engine=engine,
            model=found.model,
            engine_model=spec.name,
            owned_by=found.owned_by,
            precision=found.precision,
            tasks=found.tasks,
            context_tokens=size.context_tokens,
            vocabulary=found.vocabulary,
            control_texts=found.control_texts,
            artifact_path=str(found.artifact_path) if found.artifact_path else None,
            needs_pull=found.needs_pull,
            engine_version=engine_version(engine),
            parallel=size.parallel,
            in_flight=self._in_flight(size.parallel) if engine in (DEFAULT_ENGINE, PAGED_ENGINE) else None,
            threads=int(spec.engine_settings.get("threads", os.cpu_count() or 1)),
        )
        require_no_kv_settings(engine, spec.engine_settings)
        require_no_speculation_settings(engine, spec.engine_settings)
        is_ours = engine == DEFAULT_ENGINE
        chosen = self._with_choice(spec, resolved) if is_ours else self._with_kv(spec, unpacked(resolved))
        tuned = self._tuned(spec, found, chosen, self._room_bytes)
        require_room(spec.replicas, tuned.replica_bytes, self._room_bytes, engine)
        return self._with_companion(spec, found, tuned)

    def _with_companion(self, spec: DeploymentSpec, found: "Found", main: "Resolved") -> "Resolved":
        """With a second variant for many users, or why there is none; its troubles are its own."""
        from outpace.lab.companion import why_no_companion, why_no_room

        try:
            reason = why_no_companion(spec, found)
            if not self._is_one_machine:
                reason = "second variants are held on one machine only, not on Ray"
            companion = None if reason else self._companion(spec, found, main)
        except (OutpaceError, OSError) as error:
            companion, reason = None, str(error)
        if companion is not None and not (companion.is_proven or spec.allow_unproven):
            # Nobody asked for it: what `auto` adds by itself is as good as what it adds to.
            reason = f"unproven on {companion.engine}: {companion.precision_reason}"
        elif companion is not None:
            reason = why_no_room(main.replica_bytes, companion.replica_bytes, self._room_bytes)
        return msgspec.structs.replace(main, companion=None if reason else companion, no_companion=reason)

    def _companion(self, spec: DeploymentSpec, found: "Found", main: "Resolved") -> "Resolved":
        """The weights as shipped, or what is proven for its engine in their place. Raises InvalidInput."""
        from outpace.lab.companion import ENGINE

        parallel = self._size(found, spec, pages_kv=True).parallel
        bare = msgspec.structs.replace(
            main,
            engine=ENGINE,
            engine_version=engine_version(ENGINE),
            precision=found.precision,
            artifact_path=str(found.artifact_path),
            canary="",
            parallel=parallel,
            in_flight=self._in_flight(parallel),
            speculation=None,
        )
        companion = self._with_kv(spec, bare)
        companion = msgspec.structs.replace(companion, variant=f"{ENGINE}{companion.variant}")
        # A method by name is the main engine's word; `auto` is for both.
        own = spec if spec.speculation == "auto" else msgspec.structs.replace(spec, speculation=OFF)
        return self._tuned(own, found, companion, self._room_bytes - main.replica_bytes)

    def _bytes_of(self, found: "Found", resolved: "Resolved") -> int:
        from outpace.lab.footprint import replica_bytes

        return replica_bytes(
            found,
            resolved.engine,
            Path(resolved.artifact_path) if resolved.artifact_path else None,
            resolved.parallel,
            resolved.context_tokens or 0,
            guesses=resolved.speculation is not None and resolved.engine in SWITCHED,
            draft_path=str(resolved.engine_settings.get("draft_path", "")),
        )

    def _tuned(
        self, spec: DeploymentSpec, found: "Found", resolved: "Resolved", room_bytes: int
    ) -> "Resolved":
        """With what was measured of this variant here, the speculation that follows or was asked for, and its bytes."""
        from outpace.control.guessing import within_room

        if resolved.artifact_path is None:
            # Before the weights are here only the method's name can be checked.
            if spec.speculation != "auto":
                speculation_settings(resolved.engine, spec.speculation, "")
            return msgspec.structs.replace(resolved, replica_bytes=self._bytes_of(found, resolved))
        tuned = self.profiled.tune(spec.speculation, _variant_of(spec, resolved, self._artifacts))
        with_method = msgspec.structs.replace(
            resolved,
            engine_settings={**resolved.engine_settings, **tuned.settings},
            variant=f"{resolved.variant}~{tuned.method}" if tuned.method else resolved.variant,
            speculation=tuned.method,
            speculation_reason=tuned.reason,
            profile=tuned.found.profile,
            profile_reason=tuned.found.reason,
        )
        return within_room(
            resolved,
            with_method,
            lambda each: self._bytes_of(found, each),
            room_bytes,
            is_auto=spec.speculation == "auto",
        )

    def variant(self, spec: DeploymentSpec, engine: str | None = None) -> "Variant":
        """What a spec serves here, on this engine where it has two, as a profile sees it.

        Raises InvalidInput, ModelNotFound, WeightsInvalid.
        """
        resolved = self.resolve(spec)
        if engine is not None and engine != resolved.engine:
            companion = resolved.companion
            if companion is None or companion.engine != engine:
                known = ", ".join(each.engine for each in (resolved, companion) if each is not None)
                raise InvalidInput("engine", f"{spec.name} has no variant on {engine[:40]!r}; it has {known}")
            resolved = companion
        if resolved.artifact_path is None:
            raise InvalidInput("deployment", f"{spec.name} has no weights here that could be measured")
        return _variant_of(spec, resolved, self._artifacts)

    def _with_choice(self, spec: DeploymentSpec, resolved: "Resolved") -> "Resolved":
        """With the artifact that layer two takes: the fastest proven one, or the one asked for by name."""
        kv = DEFAULT_KV[DEFAULT_ENGINE]
        resolved = msgspec.structs.replace(resolved, kv_precision=kv)
        is_auto = spec.precision in ("auto", resolved.precision) and spec.kv_precision in ("auto", kv)
        # Before anything was measured there is nothing to choose from, and numpy need not be imported.
        has_evidence = any(path.exists() for path in _evidence(self._artifacts))
        if resolved.artifact_path is None or (is_auto and not has_evidence):
            return msgspec.structs.replace(resolved, precision_reason=_AS_SHIPPED)
        if not {"chat", "completions"} & set(resolved.tasks):
            from outpace.control.formats import forced_kv

            return resolved if is_auto else forced_kv(spec, resolved)
        return _chosen_of(resolved, self._chosen(spec))

    def _with_kv(self, spec: DeploymentSpec, resolved: "Resolved") -> "Resolved":
        """With weights and KV format that are proven for the engine, or asked for by name. Raises InvalidInput."""
        from outpace.control.formats import forced_kv

        if resolved.engine not in GATED_KV or resolved.artifact_path is None:
            return forced_kv(spec, resolved)
        from outpace.lab.proven import served, shipped_weights

        shipped = shipped_weights(resolved.precision, Path(resolved.artifact_path))
        taken = served(self._artifacts, resolved.engine, resolved.model, shipped, spec)
        return msgspec.structs.replace(resolved, **taken.fields(resolved.engine))

    async def canary_miss(self, address: str, token: str, name: str) -> str | None:
        """Why a replica is not what was proven; None when it is, or when nothing was recorded."""
        from outpace.lab.canaries import Canaries

        return await Canaries(self._artifacts, SystemClock()).miss(address, token, name)

    def _chosen(self, spec: DeploymentSpec) -> "Chosen":
        from outpace.hardware.machine import detect
        from outpace.lab.precisions import Precisions

        assert spec.model is not None
        wish = (spec.model, spec.precision, spec.kv_precision, spec.allow_unproven)
        key = (*wish, *map(_changed_ns, _evidence(self._artifacts)))
        if key not in self._choices:
            precisions = Precisions(self._artifacts, detect(), SystemClock())
            chosen = precisions.choose(
                spec.model, spec.precision, spec.kv_precision, allows_unproven=spec.allow_unproven
            )
            self._choices = {
                known: kept for known, kept in self._choices.items() if known[: len(wish)] != wish
            }
            self._choices[key] = chosen
        return self._choices[key]

    def pull(self, spec: DeploymentSpec, progress: Callable[[int, int | None], None]) -> None:
        """Bring the weights of a spec's model."""
        from outpace.catalogue import Progress, resolve

        assert spec.model is not None, "external deployments have no weights"
        found = resolve(spec.model, self._shipped_precision(spec), self._store)

        def watch(seen: Progress) -> None:
            progress(seen.done_bytes, seen.total_bytes)

        if found.to_pull is not None:
            self._store.pull(found.model, found.to_pull, watch)

    def _shipped_precision(self, spec: DeploymentSpec) -> str:
        """The precision to look up in the catalogue."""
        from outpace.catalogue import find_card
        from outpace.precision.recipes import source_precision

        card = find_card(spec.model or "")
        return source_precision(spec.precision, [each.precision for each in card.artifacts] if card else [])

    def list_price(self, model: str) -> Price | None:
        """The list price of a catalogue model; None for anything else."""
        from outpace.catalogue import find_card

        card = find_card(model)
        return card.price if card else None

    def listing(self) -> list[dict[str, Any]]:
        """The catalogue for `GET /admin/models`."""
        from outpace.catalogue import listing, shipped_cards

        return [listing(card, self._store) for card in shipped_cards().values()]

    def _in_flight(self, parallel: int) -> int:
        """One worker's share of what runs at once; who waits does so in the gateway, where the line is fair.

        llama.cpp holds a thread for each request it has: with more requests than threads it answers nobody.
        """
        return math.ceil(parallel / self._workers)

    def _size(self, found: "Found", spec: DeploymentSpec, *, pages_kv: bool) -> "ReplicaSize":
        from outpace.fleet.sizing import PAGED_SHARING, ReplicaSize, replica_size
        from outpace.lab.footprint import kv_bytes_of

        settings, kv_bytes = spec.engine_settings, kv_bytes_of(found)
        # Only what is not paged is cleared at a start.
        starts_soon = spec.replicas.stands_by.imported > 0 and not pages_kv
        size = replica_size(found.context_tokens, kv_bytes, memory_bytes(), starts_soon=starts_soon)
        if not kv_bytes:
            size = size._replace(context_tokens=found.context_tokens)
        return ReplicaSize(
            parallel=int(settings.get("parallel", size.parallel * (PAGED_SHARING if pages_kv else 1))),
            context_tokens=int(settings.get("context_tokens", size.context_tokens)),
        )


def _variant_of(spec: DeploymentSpec, resolved: "Resolved", artifacts: Path) -> "Variant":
    from outpace.lab.profiled import Variant

    return Variant(
        model=resolved.model,
        artifact_path=str(resolved.artifact_path),
        engine=resolved.engine,
        engine_version=resolved.engine_version,
        threads=resolved.threads,
        settings={**spec.engine_settings, **resolved.engine_settings},
        is_text=bool({"chat", "completions"} & set(resolved.tasks)),
        artifacts_dir=str(artifacts),
    )


def _chosen_of(resolved: "Resolved", chosen: "Chosen") -> "Resolved":
    """What layer two chose, as control needs it."""
    from outpace.lab.canaries import canary_name

    product, choice = chosen.product, chosen.choice
    kv = choice.kv_precision
    is_default_kv = kv == DEFAULT_KV[DEFAULT_ENGINE]
    variant = product.sha256[:12] if product.lineage or not is_default_kv else ""
    return msgspec.structs.replace(
        resolved,
        artifact_path=str(product.path),
        precision=choice.precision,
        kv_precision=kv,
        variant=variant if is_default_kv else f"{variant}+{kv}",
        canary=canary_name(product.at_kv(kv)),
        precision_reason=choice.reason,
        is_proven=choice.is_proven,
        engine_settings={} if is_default_kv else kv_settings(DEFAULT_ENGINE, kv),
    )


def _evidence(artifacts: Path) -> tuple[Path, ...]:
    """What a choice of precision rests on."""
    return artifacts / "verdicts", artifacts / "speeds.json", artifacts / "canaries"


def _changed_ns(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def memory_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _log_as_json_lines() -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
