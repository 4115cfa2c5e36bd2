"""Control's life: open the store, adopt and reconcile, book, serve the admin door, end in order."""

import asyncio
import importlib
import signal
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from outpace.control.books import Books
from outpace.control.database import DatabaseBusy, open_database
from outpace.control.keys import SCOPES, Grant, Key
from outpace.control.live import LiveAnswers
from outpace.control.metrics import CONTENT_TYPE, Metrics
from outpace.control.parts import ControlParts, ControlSettings
from outpace.control.profiler import Profiler
from outpace.control.proofs import Proofs
from outpace.control.reconcile import Reconciler
from outpace.control.served import Served
from outpace.control.signal_door import SignalDoor
from outpace.control.store import Store, Wanted
from outpace.control.tail import Tail
from outpace.control.threads import in_thread
from outpace.fleet.supervisor import EXIT_CONFIG
from outpace.metering import Counters
from outpace.metering.ledger import Ledger
from outpace.values.errors import Conflict, InvalidInput
from outpace.values.records import Reserved, Settled

_LOG = structlog.get_logger()
_DATABASE_AGAIN_S = 1.0
_LAST_BOOKING_S = 3.0
_LAST_REQUESTS_S = 1.0
_OWNER = Grant(name="owner", scopes=("inference",))
_OWNER_ADMIN = Grant(name="owner-admin", scopes=SCOPES)


class _Remembered(msgspec.Struct):
    """What the store holds at the start."""

    store: Store
    keys: list[Key]
    wanted: list[Wanted]


async def run_control(settings: ControlSettings, parts: ControlParts) -> None:
    """Run until SIGTERM or SIGINT, then book what is left. Ends with EXIT_CONFIG for settings that cannot be."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    # FastAPI takes half a second to import; replicas start meanwhile.
    importing = asyncio.create_task(in_thread(importlib.import_module, "outpace.control.http"))
    try:
        control = Control(settings, parts, await _remember(settings, parts, stopping))
        await control.run(importing, stopping)
    except (Conflict, InvalidInput) as error:
        _LOG.error("control_refused", reason=str(error))
        raise SystemExit(EXIT_CONFIG) from error
    except _Stopped:
        _LOG.info("control_stopped_at_start")


class _Stopped(Exception):
    """Told to end before the store was open."""


async def _remember(settings: ControlSettings, parts: ControlParts, stopping: asyncio.Event) -> _Remembered:
    """Open the store; a locked database is waited for, because nothing can be decided without it."""
    while not stopping.is_set():
        try:
            return await in_thread(_load, settings, parts)
        except DatabaseBusy as error:
            _LOG.warning("database_awaited", reason=str(error), cause=str(error.__cause__)[:300])
            await parts.clock.sleep(_DATABASE_AGAIN_S)
    raise _Stopped


def _load(settings: ControlSettings, parts: ControlParts) -> _Remembered:
    store = Store(open_database(settings.database, parts.home.database))
    now = parts.clock.wall_s()
    store.ensure_owner_key(parts.credentials.admin_key, _OWNER_ADMIN, now)
    store.ensure_owner_key(parts.credentials.api_key, _OWNER, now)
    return _Remembered(store, store.keys(), list(store.deployments().values()))


class Control:
    """The running parts of control and their order at the end."""

    def __init__(self, settings: ControlSettings, parts: ControlParts, remembered: _Remembered) -> None:
        self._settings = settings
        self._parts = parts
        self._store = remembered.store
        self.metrics = Metrics()
        self.reconciler = Reconciler(parts, self.metrics.replica_failed, self._announce)
        self._signals = SignalDoor(parts.home, self.reconciler.take_demand)
        self.reconciler.set_keys(remembered.keys)
        for wanted in remembered.wanted:
            # One that slept goes on sleeping.
            self.reconciler.want(wanted, at_least=0)
        self._counters = Counters.open(parts.home.counters)
        last_token_s = self.reconciler.replicas.last_token_s
        tail = Tail(parts.home.journal, parts.clock, self.metrics, last_token_s, self._learners())
        ledger = Ledger(self._store.engine, parts.clock)
        self.books = Books(ledger, self._counters, parts.home.journal, parts.clock, tail, self.metrics)

    def _learners(self) -> "list[Callable[[Reserved, Settled], None]]":
        """Who learns from requests that ended."""
        scaler, keep = self.reconciler.scaler, self._parts.keep_profile
        if keep is None:
            return [scaler.learn]
        live = LiveAnswers(self.reconciler.learner, scaler.pressure, keep, self._parts.clock)
        return [scaler.learn, live.learn]

    async def run(self, importing: "asyncio.Task[Any]", stopping: asyncio.Event) -> None:
        """Run until `stopping`, or until a part crashes: then raise, so that the supervisor starts afresh."""
        self._signals.open()
        tasks = [
            asyncio.create_task(self.reconciler.run()),
            asyncio.create_task(self.books.run()),
            asyncio.create_task(self._serve(importing, stopping)),
        ]
        background = self._start_background()
        told = asyncio.create_task(stopping.wait())
        await asyncio.wait([told, *tasks], return_when=asyncio.FIRST_COMPLETED)
        stopping.set()
        for part in background:
            part.cancel()
        crashed = [task for task in tasks if task.done() and not task.cancelled() and task.exception()]
        await self._end(tasks)
        for task in crashed:
            task.result()
        self._signals.close()
        _LOG.info("control_stopped")

    def _start_background(self) -> "list[asyncio.Task[None]]":
        """Parts that control can lose: they are neither waited for nor missed."""
        parts, served, started = self._parts, self.reconciler.served, []
        # One experiment at a time: two would measure each other.
        alone = asyncio.Lock()
        if parts.prove is not None:
            is_starting = self.reconciler.replicas.is_starting
            proofs = Proofs(parts.prove, served, parts.clock, alone, is_starting)
            started.append(asyncio.create_task(proofs.run()))
        if parts.profile is not None:
            pressure, companions = self.reconciler.scaler.pressure, self.reconciler.companions

            def variants() -> dict[str, Served]:
                return {**served, **companions.served}

            profiler = Profiler(parts.profile, variants, pressure, parts.clock, alone)
            started.append(asyncio.create_task(profiler.run()))
        return started

    def _announce(self, version: int) -> None:
        self._signals.announce(version)

    async def _serve(self, importing: "asyncio.Task[Any]", stopping: asyncio.Event) -> None:
        from outpace.control.admin_server import AdminServer, is_loopback
        from outpace.control.desk import Desk
        from outpace.control.guard import Guard

        http = await importing
        desk = Desk(self._parts, self._settings, self._store, self.reconciler, self._counters)
        app = http.create_app(desk, self._metrics_text, CONTENT_TYPE)
        host, port = self._settings.admin_host, self._settings.admin_port
        guard = Guard(app, desk.key_with, self._parts.clock, is_loopback=is_loopback(host))
        server = AdminServer(guard, host, port)
        _LOG.info("admin_door_open", host=host, port=port)
        serving = asyncio.create_task(server.serve())
        try:
            told = asyncio.create_task(stopping.wait())
            await asyncio.wait({serving, told}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            server.end()
        await serving

    def _metrics_text(self) -> bytes:
        reconciler = self.reconciler
        entries = [reconciler.entry(served) for served in reconciler.served.values()]
        self.metrics.show_fleet(entries, list(reconciler.replicas.lives.values()))
        self.metrics.show_ledger(self.books.behind_s())
        return self.metrics.text()

    async def _end(self, tasks: "list[asyncio.Task[None]]") -> None:
        reconciling, booking, serving = tasks
        reconciling.cancel()
        booking.cancel()
        await asyncio.wait([serving], timeout=_LAST_REQUESTS_S)
        serving.cancel()
        await asyncio.wait(tasks, timeout=_LAST_REQUESTS_S)
        # Workers end before control, so their journals are complete by now.
        last = asyncio.create_task(self.books.finish())
        await asyncio.wait([last], timeout=_LAST_BOOKING_S)
        last.cancel()
