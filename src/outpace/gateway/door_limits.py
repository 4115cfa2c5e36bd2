"""How long and how much a client may take before its request is whole."""

import math
import resource

import msgspec

from outpace.values.units import KIB, MIB

# Files that a worker needs for itself: standard streams, journal, counters, loop, listener, log.
_OWN_FILES = 64
_MOST_CONNECTIONS = 20_000


class DoorLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one connection, and of all connections of one worker."""

    # From the first byte of a head (or the connection) to its last.
    header_deadline_s: float = 10.0
    # A body may be late by `body_grace_s` against `body_min_bytes_per_s`, and never later than the deadline.
    body_grace_s: float = 10.0
    body_min_bytes_per_s: int = 1_024
    body_deadline_s: float = 300.0
    # Between requests.
    idle_s: float = 75.0
    # A client that has read less than `body_min_bytes_per_s` for this long is cut off.
    write_stall_s: float = 60.0
    # How long the last answer of a refused connection may take to be read.
    linger_s: float = 1.0
    # A half-closed client: first look for signs of life, and again.
    half_close_s: float = 0.5
    half_close_again_s: float = 5.0

    max_head_bytes: int = 64 * KIB
    max_headers: int = 200
    max_target_bytes: int = 8_192
    max_body_bytes: int = 16 * MIB
    max_chunks: int = 16_384
    # Bodies of all connections that are not whole yet.
    max_arriving_bytes: int = 512 * MIB
    # Requests sent ahead of the answers on one connection, and bytes kept of those that follow.
    max_pipelined: int = 16
    max_held_bytes: int = 64 * KIB
    # A body this small is read to its end after an early answer, so that the connection lives on.
    max_skipped_bytes: int = 64 * KIB
    # None: half of the files that the process may open, since each request needs one towards an engine.
    max_connections: int | None = None

    @property
    def sweep_every_s(self) -> float:
        """Interval of looking for overdue connections: an eighth of the shortest limit, at most 1 s."""
        shortest_s = min(
            self.header_deadline_s,
            self.body_grace_s,
            self.body_deadline_s,
            self.idle_s,
            self.write_stall_s,
            self.linger_s,
        )
        return min(1.0, max(0.01, shortest_s / 8))

    def connections_allowed(self) -> int:
        """Connections of one worker, within what the process may open now."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        by_files = math.inf if files == resource.RLIM_INFINITY else max(1, (files - _OWN_FILES) // 2)
        wanted = _MOST_CONNECTIONS if self.max_connections is None else self.max_connections
        return int(min(wanted, by_files))
