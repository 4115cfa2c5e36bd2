"""Processes that stand by with an engine imported and no model: started ahead, handed over once, started again."""

import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec
import structlog

from outpace.fleet.handover import standby_launch
from outpace.fleet.pool import Child, Pool
from outpace.fleet.reasons import why_ended
from outpace.fleet.restarts import NO_FAILURES, Failures, RestartPolicy, after_failure, next_start_s
from outpace.values.clock import Clock
from outpace.values.deployment import Launch
from outpace.values.errors import OutpaceError

_LOG = structlog.get_logger()
# Tried for ever, never in haste: without it a start only takes longer.
STANDBY_RESTARTS = RestartPolicy(
    first_wait_s=1.0, longest_wait_s=60.0, healthy_after_s=10.0, retry_open_s=60.0
)

# Of the memory that no replica has.
_TAKEN_SHARE, _KEPT_SHARE = 0.25, 0.5


class Ahead(NamedTuple):
    """How many shall stand by with a module imported, and the memory that each has at hand."""

    num: int
    memory_bytes: int = 0


def together(wishes: Iterable[tuple[str, Ahead]]) -> dict[str, Ahead]:
    """What several deployments want of a module: the most of them, with the most memory. Pure."""
    wanted: dict[str, Ahead] = {}
    for module, wish in wishes:
        if module:
            before = wanted.get(module, Ahead(0))
            wanted[module] = Ahead(max(before.num, wish.num), max(before.memory_bytes, wish.memory_bytes))
    return wanted


def within(room_bytes: int, ahead: Ahead, *, holds: bool) -> Ahead:
    """The same with its memory only where that is a small part of the room: replicas come first. Pure.

    `holds`: it is at hand already, and is given up later than it would be taken, so that nothing flaps.
    """
    share = _KEPT_SHARE if holds else _TAKEN_SHARE
    return ahead if ahead.num * ahead.memory_bytes <= share * room_bytes else Ahead(ahead.num)


class _Standing(msgspec.Struct, frozen=True):
    """One process that stands by, and the monotonic second of its start."""

    module: str
    memory_bytes: int
    pid: int
    started_s: float


class Standbys:
    """Those that stand by in one pool, by name; any deployment whose engine they imported may take one."""

    def __init__(self, pool: Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._standing: dict[str, _Standing] = {}
        self._failures: dict[str, Failures] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._standing

    def counts(self) -> dict[str, int]:
        """How many stand by, by the module that they imported."""
        modules = [standing.module for standing in self._standing.values()]
        return {module: modules.count(module) for module in modules}

    def take(self, launch: Launch) -> str | None:
        """Name of one that can become this launch, the oldest first; it counts as gone from now on."""
        if launch.needs.is_bound:
            # It may stand by on another machine.
            return None
        module = launch.argv[2] if launch.argv[1:2] == ("-m",) and len(launch.argv) > 2 else ""
        name = next((name for name, standing in self._standing.items() if standing.module == module), None)
        if name is not None:
            del self._standing[name]
        return name

    def take_end(self, child: Child) -> None:
        """One ended unasked."""
        standing = self._standing.get(child.name)
        if standing is None or standing.pid != child.pid:
            return
        del self._standing[child.name]
        self._failed(standing.module, standing.started_s, why_ended(child.exit_code or 0, child.last_line))

    def missed(self, running: Iterable[Child]) -> None:
        """The pool's list is the truth: those that it does not have are gone."""
        pids = {child.name: child.pid for child in running if child.exit_code is None}
        for name, standing in list(self._standing.items()):
            if pids.get(name) != standing.pid:
                del self._standing[name]
                self._failed(standing.module, standing.started_s, "it is gone")

    def within(self, room_bytes: int, wanted: Mapping[str, Ahead]) -> dict[str, Ahead]:
        """What is wanted, with memory as far as there is room for it."""
        held = {(standing.module, standing.memory_bytes) for standing in self._standing.values()}
        return {
            module: within(room_bytes, ahead, holds=(module, ahead.memory_bytes) in held)
            for module, ahead in wanted.items()
        }

    async def keep(self, wanted: Mapping[str, Ahead], stop_grace_s: float) -> None:
        """Have as many as are wanted by module, with that memory; what fails is tried again later."""
        counts = self._counts()
        for module, ahead in wanted.items():
            if counts.get((module, ahead.memory_bytes), 0) < ahead.num and self._may_start(module):
                await self._start(module, ahead.memory_bytes)
        for name in self._surplus(wanted):
            del self._standing[name]
            await self._pool.stop(name, stop_grace_s)

    def _surplus(self, wanted: Mapping[str, Ahead]) -> list[str]:
        counts, names = self._counts(), []
        most = {(module, ahead.memory_bytes): ahead.num for module, ahead in wanted.items()}
        for name, standing in reversed(self._standing.items()):
            kind = standing.module, standing.memory_bytes
            if counts[kind] > most.get(kind, 0):
                counts[kind] -= 1
                names.append(name)
        return names

    def _counts(self) -> Counter[tuple[str, int]]:
        return Counter((standing.module, standing.memory_bytes) for standing in self._standing.values())

    def _may_start(self, module: str) -> bool:
        start_s = next_start_s(self._failures.get(module, NO_FAILURES), STANDBY_RESTARTS)
        return start_s is not None and self._clock.monotonic_s() >= start_s

    async def _start(self, module: str, memory_bytes: int) -> None:
        # No deployment's replica has such a name: theirs end in a number.
        name = f"standby@{module.rpartition('.')[2]}-{secrets.token_hex(4)}"
        now_s = self._clock.monotonic_s()
        try:
            child = await self._pool.stand_by(name, standby_launch(module, memory_bytes))
        except OutpaceError as error:
            self._failed(module, now_s, str(error))
            return
        self._standing[name] = _Standing(module, memory_bytes, child.pid, now_s)
        _LOG.info("standby_started", standby=name, pid=child.pid)

    def _failed(self, module: str, started_s: float, reason: str) -> None:
        now_s = self._clock.monotonic_s()
        before = self._failures.get(module, NO_FAILURES)
        self._failures[module] = after_failure(before, STANDBY_RESTARTS, now_s - started_s, now_s)
        _LOG.warning("standby_lost", module=module, reason=reason)
