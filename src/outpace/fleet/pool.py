"""The pool protocol: where replicas run. A pool starts, lists, stops and reports ends; it decides nothing."""

from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from outpace.values.deployment import Launch


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """One process of a pool, running or ended."""

    name: str
    pid: int
    # Wall clock, for people.
    started_at: float
    # None while it runs; negative: the signal that ended it.
    exit_code: int | None = None
    # The last line it wrote, without prompt text by contract of the engines.
    last_line: str = ""
    restarts: int = 0
    # False: a program of the platform itself, such as control.
    is_replica: bool = True
    # What the one who started it wants to know again after a restart of its own.
    note: str = ""
    # The line in which it told that it listens and what its start took (`engines/child.tell_listening`).
    told: str = ""


class Pool(Protocol):
    """Where replicas run; the local one is the supervisor's, others have their own."""

    async def start(self, name: str, launch: Launch, note: str = "") -> Child:
        """Start a process. Raises Conflict when one of this name runs, EngineFailed when it cannot start."""
        ...

    async def stand_by(self, name: str, launch: Launch, note: str = "") -> Child:
        """Start a process that waits for another's launch on its standard input (`engines/standby`).

        It is listed and stopped like a replica. Raises as `start`.
        """
        ...

    async def hand_over(self, standby: str, name: str, launch: Launch, note: str = "") -> Child:
        """Let a process that stands by become the replica `name`; its process goes on under the new name.

        Raises EngineFailed when it is gone, does not answer, or has another engine: it is ended by then, `start`
        is the way on. Raises Conflict when a `name` runs.
        """
        ...

    async def stop(self, name: str, grace_s: float) -> None:
        """Ask it to end, end it after `grace_s`; its end is reported by `ends`. Unknown names are fine."""
        ...

    async def replicas(self) -> list[Child]:
        """The running replicas, and those that ended lately."""
        ...

    def ends(self) -> AsyncIterator[Child]:
        """Every end of a replica from now on; ends missed while the pool was out of reach are in `replicas`."""
        ...
