"""A worker's Unix datagram socket: demand goes out to control and to the other workers, news of snapshots comes in.

Everything here is a hint (decision 0030). A datagram that cannot be sent or read is dropped; demand is said again
while it holds, and the snapshot file is looked at anyway.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from outpace.values.clock import Clock
from outpace.values.signals import (
    CONTROL_SOCKET,
    Demand,
    DeploymentDemand,
    SnapshotWritten,
    decode,
    encode,
    worker_socket,
)

_log = structlog.get_logger()

REPEAT_EVERY_S = 0.5
# A worker that was not heard for this long has nothing to do, or is gone.
_FORGET_AFTER_S = 2.0
_MOST_BYTES = 1 << 20
_MOST_PER_WAKE = 64

Demands = dict[str, DeploymentDemand]


class WorkerSignals:
    """The socket of one worker."""

    def __init__(
        self,
        folder: Path,
        index: int,
        num_workers: int,
        clock: Clock,
        demand: Callable[[], Demands],
        on_snapshot: Callable[[], object],
        on_peers: Callable[[Callable[[str], list[DeploymentDemand]]], None],
    ) -> None:
        self._index = index
        self._clock = clock
        self._demand = demand
        self._on_snapshot = on_snapshot
        self._on_peers = on_peers
        self._path = folder / worker_socket(index)
        peers = [worker_socket(number) for number in range(num_workers) if number != index]
        self._targets = [str(folder / name) for name in (CONTROL_SOCKET, *peers)]
        self._socket: socket.socket | None = None
        self._last: Demands = {}
        self._peers: dict[int, tuple[float, Demands]] = {}

    def open(self) -> None:
        """Bind the socket (a dead worker's is replaced) and listen on the running loop."""
        self._path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(str(self._path))
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)

    def close(self) -> None:
        """Stop listening and remove the socket."""
        if self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        self._socket = None
        self._path.unlink(missing_ok=True)

    async def run(self) -> None:
        """Say what is demanded every half second, while there is something or it changed."""
        while True:
            await self._clock.sleep(REPEAT_EVERY_S)
            demand = self._demand()
            if demand != self._last or _is_busy(demand):
                self._send(demand)
            self._forget()

    def send_now(self) -> None:
        """Say it at once: a request found nothing ready."""
        self._send(self._demand())

    def peers(self, deployment: str) -> list[DeploymentDemand]:
        """What the other workers have to do for a deployment, as last heard."""
        return [demands[deployment] for _, demands in self._peers.values() if deployment in demands]

    def _forget(self) -> None:
        since_s = self._clock.monotonic_s() - _FORGET_AFTER_S
        silent = [index for index, (at_s, _) in self._peers.items() if at_s < since_s]
        for index in silent:
            del self._peers[index]
        if silent:
            self._on_peers(self.peers)

    def _send(self, demand: Demands) -> None:
        self._last = demand
        if self._socket is None:
            return
        datagram = encode(Demand(worker=self._index, deployments=demand))
        for target in self._targets:
            # Nobody there, or its buffer is full.
            with contextlib.suppress(OSError):
                self._socket.sendto(datagram, target)

    def _read(self) -> None:
        if self._socket is None:
            return
        is_news = False
        for _ in range(_MOST_PER_WAKE):
            try:
                datagram = self._socket.recv(_MOST_BYTES)
            except OSError:
                break
            is_news |= self._take(datagram)
        if is_news:
            self._on_snapshot()

    def _take(self, datagram: bytes) -> bool:
        try:
            signal = decode(datagram)
        except msgspec.DecodeError as error:
            _log.warning("signal_unreadable", error=str(error))
            return False
        if isinstance(signal, SnapshotWritten):
            return True
        self._peers[signal.worker] = self._clock.monotonic_s(), signal.deployments
        self._on_peers(self.peers)
        return False


def _is_busy(demand: Demands) -> bool:
    return any(each.waiting or each.running for each in demand.values())
