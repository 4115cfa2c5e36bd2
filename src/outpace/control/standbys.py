"""Processes that stand by with an engine imported and no model: started ahead, handed over once, started again."""

import secrets
from collections.abc import Iterable, Mapping

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


class _Standing(msgspec.Struct, frozen=True):
    """One process that stands by, and the monotonic second of its start."""

    module: str
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

    async def keep(self, wanted: Mapping[str, int], stop_grace_s: float) -> None:
        """Have as many as are wanted by module; what fails is tried again later."""
        counts = self.counts()
        for module, count in wanted.items():
            if counts.get(module, 0) < count and self._may_start(module):
                await self._start(module)
        for name in self._surplus(wanted):
            del self._standing[name]
            await self._pool.stop(name, stop_grace_s)

    def _surplus(self, wanted: Mapping[str, int]) -> list[str]:
        counts, names = self.counts(), []
        for name, standing in reversed(self._standing.items()):
            if counts[standing.module] > wanted.get(standing.module, 0):
                counts[standing.module] -= 1
                names.append(name)
        return names

    def _may_start(self, module: str) -> bool:
        start_s = next_start_s(self._failures.get(module, NO_FAILURES), STANDBY_RESTARTS)
        return start_s is not None and self._clock.monotonic_s() >= start_s

    async def _start(self, module: str) -> None:
        # No deployment's replica has such a name: theirs end in a number.
        name = f"standby@{module.rpartition('.')[2]}-{secrets.token_hex(4)}"
        now_s = self._clock.monotonic_s()
        try:
            child = await self._pool.stand_by(name, standby_launch(module))
        except OutpaceError as error:
            self._failed(module, now_s, str(error))
            return
        self._standing[name] = _Standing(module, child.pid, now_s)
        _LOG.info("standby_started", standby=name, pid=child.pid)

    def _failed(self, module: str, started_s: float, reason: str) -> None:
        now_s = self._clock.monotonic_s()
        before = self._failures.get(module, NO_FAILURES)
        self._failures[module] = after_failure(before, STANDBY_RESTARTS, now_s - started_s, now_s)
        _LOG.warning("standby_lost", module=module, reason=reason)
