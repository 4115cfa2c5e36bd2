"""What the connections of one worker share: the sweep for overdue ones, counts, and the answer's first line."""

import asyncio
import enum
import math
from http import HTTPStatus
from typing import Protocol

from outpace.gateway.door_head import Headers
from outpace.gateway.door_limits import DoorLimits

NEVER_S = math.inf
# Connections above the limit that are still told so; beyond them there is only a cut.
_MOST_TOLD = 128


class Awaits(enum.Enum):
    """What a connection is waiting for."""

    REQUEST = enum.auto()  # the first byte of its first request
    IDLE = enum.auto()  # the first byte of its next request
    HEAD = enum.auto()
    BODY = enum.auto()
    ANSWER = enum.auto()  # ours
    CLOSE = enum.auto()  # the client, to read the last answer


class Swept(Protocol):
    """A connection, to the sweep."""

    # Loop times in seconds; `NEVER_S` while nothing is awaited.
    deadline_s: float
    stall_s: float

    def overdue(self, now_s: float) -> None:
        """A deadline has passed."""
        ...


class DoorState:
    """Shared by the connections of one worker."""

    def __init__(self, limits: DoorLimits) -> None:
        self.limits = limits
        self.num_refused = 0
        self._open: set[Swept] = set()
        self._most_open = 0
        self._is_sweeping = False
        self._arriving_bytes = 0
        self._stamp: Headers | None = None
        self._lines: dict[int, bytes] = {}

    def enter(self, connection: Swept, loop: asyncio.AbstractEventLoop) -> bool:
        """Watch a connection; False when there are too many."""
        if not self._open:
            self._most_open = self.limits.connections_allowed()
        self._open.add(connection)
        if not self._is_sweeping:
            self._is_sweeping = True
            loop.call_later(self.limits.sweep_every_s, self._sweep, loop)
        return len(self._open) <= self._most_open

    @property
    def is_crowded_out(self) -> bool:
        """There are so many connections that even a refusal costs too much."""
        return len(self._open) > self._most_open + _MOST_TOLD

    def leave(self, connection: Swept) -> None:
        """Forget a connection."""
        self._open.discard(connection)

    def count_arriving(self, change_bytes: int) -> int:
        """Add to the bytes of bodies that are not whole yet; returns the sum."""
        self._arriving_bytes += change_bytes
        return self._arriving_bytes

    def status_line(self, status: int, stamp: Headers) -> bytes:
        """Status line and the server's own headers; `stamp` is a new list whenever the date has changed."""
        if stamp is not self._stamp:
            self._stamp = stamp
            self._lines = {}
        line = self._lines.get(status)
        if line is None:
            line = self._lines[status] = _status_line(status, stamp)
        return line

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_sweeping = bool(self._open)
        if self._is_sweeping:
            loop.call_later(self.limits.sweep_every_s, self._sweep, loop)
        now_s = loop.time()
        # A list: those that are overdue may leave at once.
        for connection in [each for each in self._open if each.deadline_s <= now_s or each.stall_s <= now_s]:
            connection.overdue(now_s)


def _status_line(status: int, stamp: Headers) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    line = f"HTTP/1.1 {status} {phrase}\r\n".encode("ascii")
    return line + b"".join(b"%b: %b\r\n" % field for field in stamp)
