"""The pool protocol: where replicas run. A pool starts, lists, stops and reports ends; it decides nothing."""

import re
from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from outpace.values.deployment import Launch
from outpace.values.errors import InvalidInput

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,119}")


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
    # Where it answers, when that is not where it was told to listen: it runs on another machine.
    address: str = ""
    # The machine it runs on; empty: this one.
    machine: str = ""
    # What its start cost before its process began, by phase, in seconds.
    took_s: dict[str, float] = {}


class Fetching(msgspec.Struct, frozen=True):
    """How far the weights of a start are on their way to its machines."""

    done_bytes: int
    total_bytes: int


class PoolMachine(msgspec.Struct, frozen=True, kw_only=True):
    """A machine of a pool that has several."""

    name: str
    address: str
    is_alive: bool
    # What it says it has, by the cluster's names, and what of that is free.
    resources: dict[str, float] = {}
    free: dict[str, float] = {}
    labels: dict[str, str] = {}
    # Why nothing is placed there; None: it is fine.
    problem: str | None = None


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

    async def machines(self) -> list[PoolMachine]:
        """The machines of a pool that has several; empty for one that runs on this machine only."""
        ...

    def fetching(self, name: str) -> Fetching | None:
        """How far the weights of a start under way have come; None: nothing has to come."""
        ...

    def ends(self) -> AsyncIterator[Child]:
        """Every end of a replica from now on; ends missed while the pool was out of reach are in `replicas`."""
        ...


def require_startable(name: str, launch: Launch) -> None:
    """Raises InvalidInput for a name that could be a path, and for a launch without a command."""
    if not _NAME.fullmatch(name) or not launch.argv:
        raise InvalidInput("name", "letters, digits, and . _ @ - only, and a command to run")
