"""Control's datagram socket: demand comes in, `SnapshotWritten` goes out to every worker that listens."""

import asyncio
import contextlib
import socket
from collections.abc import Callable

import msgspec
import structlog

from outpace.values.home import Home
from outpace.values.signals import CONTROL_SOCKET, Demand, SnapshotWritten, decode, encode, worker_socket

_LOG = structlog.get_logger()
_LARGEST_BYTES = 1 << 18
# Datagrams read in one turn, so that a chatty worker does not keep the loop.
_AT_ONCE = 64


class SignalDoor:
    """`control.sock` while it is open; nobody's work depends on it."""

    def __init__(self, home: Home, take: Callable[[Demand], None]) -> None:
        self._folder = home.sockets
        self._path = home.sockets / CONTROL_SOCKET
        self._take = take
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Listen, in place of an earlier control's socket; without it, load and wake-ups come only late."""
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._path.unlink(missing_ok=True)
            opened.bind(str(self._path))
        except OSError as error:
            opened.close()
            _LOG.error("signals_unheard", path=str(self._path), reason=str(error))
            return
        self._socket = opened
        asyncio.get_running_loop().add_reader(opened.fileno(), self._read)

    def close(self) -> None:
        """Stop listening."""
        if self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        self._socket = None
        self._path.unlink(missing_ok=True)

    def announce(self, version: int) -> None:
        """Tell every worker that the snapshot was replaced; one that does not listen looks by itself soon."""
        if self._socket is None:
            return
        datagram = encode(SnapshotWritten(version=version))
        for path in self._folder.glob(worker_socket(0).replace("0", "*")):
            with contextlib.suppress(OSError):
                self._socket.sendto(datagram, str(path))

    def _read(self) -> None:
        for _ in range(_AT_ONCE):
            if self._socket is None:
                return
            try:
                signal = decode(self._socket.recv(_LARGEST_BYTES))
            except BlockingIOError:
                return
            except (OSError, msgspec.DecodeError) as error:
                _LOG.warning("signal_unreadable", reason=str(error)[:200])
                continue
            if isinstance(signal, Demand):
                self._take(signal)
