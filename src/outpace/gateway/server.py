"""A gateway worker as a process: one port shared by all workers, one journal, one event loop."""

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import structlog
import uvicorn
import uvloop

from outpace.gateway.app import Gateway
from outpace.gateway.door import Door
from outpace.gateway.serve import Service
from outpace.gateway.signals import WorkerSignals
from outpace.gateway.watch import SnapshotWatch, wait_for_first
from outpace.metering import JournalUnwritable, JournalWriter
from outpace.values.clock import Clock

_log = structlog.get_logger()

_BACKLOG = 4_096
_KEEPALIVE_IDLE_S = 60
# A request makes some hundred objects that die by count; walking them every 700 costs 5 % of the CPU.
_GC_EVERY_OBJECTS = 50_000
_FIRST_SNAPSHOT_S = 30.0
_REPORT_EVERY_S = 1.0


@dataclass(frozen=True)
class Worker:
    """The parts of one worker, wired by `compose`."""

    gateway: Gateway
    service: Service
    watch: SnapshotWatch
    signals: WorkerSignals
    journal: JournalWriter
    clock: Clock


def run_worker(worker: Worker, *, host: str, port: int, grace_s: float, protocol: type[Door]) -> None:
    """Serve until SIGTERM; then finish running requests within `grace_s`, and close the journal."""
    config = uvicorn.Config(
        worker.gateway,
        http=protocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, int(grace_s)),
        backlog=_BACKLOG,
    )
    listener = listen(host, port)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(_Server(config), listener, worker))


class _Server(uvicorn.Server):
    """uvicorn's server, ended by our signals: its own handler raises the signal again and so fails a clean exit."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


async def _serve(server: uvicorn.Server, listener: socket.socket, worker: Worker) -> None:
    await wait_for_first(worker.watch, _FIRST_SNAPSHOT_S)
    # What was made while starting lives for ever: keep the collector from walking it on every full pass.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_EVERY_OBJECTS, 20, 100)
    worker.signals.open()
    loops = (worker.watch.run(), worker.signals.run(), _report(server, worker))
    background = [asyncio.create_task(loop) for loop in loops]
    _log.info("gateway_listening", pid=os.getpid(), address=listener.getsockname())
    try:
        await server.serve(sockets=[listener])
    finally:
        for task in background:
            task.cancel()
        worker.signals.close()
        worker.service.report(0)
        _close_journal(worker.journal)


def _close_journal(journal: JournalWriter) -> None:
    try:
        journal.close()
    except JournalUnwritable as error:
        # Recovery charges what is missing at its last mark.
        _log.error("journal_unwritable", reason=str(error))


async def _report(server: uvicorn.Server, worker: Worker) -> None:
    while True:
        await worker.clock.sleep(_REPORT_EVERY_S)
        worker.service.report(len(server.server_state.connections))


def listen(host: str, port: int) -> socket.socket:
    """A listening socket that several workers share; the kernel spreads connections over them."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A peer that vanishes without a word (power, network) is found by the kernel, not by a request's time-out.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_S)
    listener.bind((host, port))
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def allow_many_files() -> None:
    """Raise the limit of open files to what the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
