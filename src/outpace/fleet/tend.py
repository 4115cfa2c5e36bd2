"""The loops around one replica: bring it up, watch its pulse, wait for its end. Each step loads, decides, acts."""

import asyncio
import contextlib
from collections.abc import Callable

from outpace.engines.protocol import Engine, Load, Readiness
from outpace.fleet.probe import Probe
from outpace.fleet.replicas import (
    Life,
    Pulse,
    ReplicaPolicy,
    is_due,
    why_hung,
    with_load,
    with_question,
    with_sign,
    with_traffic,
    with_wrong_answer,
)
from outpace.values.clock import Clock
from outpace.values.errors import EngineFailed, EngineTimedOut

_KNOCK_SHARE = 0.02
_SHORTEST_KNOCK_S = 0.01
_LONGEST_KNOCK_S = 0.25
_KNOCK_DEADLINE_S = 5.0
_LOOK_EVERY_S = 0.25
_LOAD_DEADLINE_S = 3.0
# Two figures in a row, so that a request between two counters is not overlooked.
_IDLE_LOOKS = 2


async def bring_up(life: Life, readiness: Readiness, clock: Clock) -> float:
    """Return when the replica has given one real token: seconds that this token took.

    Raises EngineTimedOut after its start deadline.
    """
    last_problem = "it does not answer"
    deadline_s = max(life.started_s, life.placed_s) + readiness.start_deadline_s
    async with Probe(life.address, life.token) as probe:
        while True:
            left_s = deadline_s - clock.monotonic_s()
            if left_s <= 0:
                raise EngineTimedOut(f"not ready after {readiness.start_deadline_s:.0f} s: {last_problem}")
            try:
                if await probe.is_up(readiness.path, min(_KNOCK_DEADLINE_S, left_s)):
                    last_problem = "it answers, but gives no token"
                    asked_s = clock.monotonic_s()
                    await probe.require_token(readiness, left_s)
                    return clock.monotonic_s() - asked_s
            except EngineFailed as error:
                last_problem = str(error)
            await clock.sleep(knock_again_s(clock.monotonic_s() - max(life.started_s, life.placed_s)))


def knock_again_s(waited_s: float) -> float:
    """How long to wait between two knocks: a small share of the wait so far, so that noticing is short beside it."""
    return min(max(_KNOCK_SHARE * waited_s, _SHORTEST_KNOCK_S), _LONGEST_KNOCK_S)


async def watch(
    life: Life,
    engine: Engine,
    readiness: Readiness,
    policy: ReplicaPolicy,
    last_token_s: Callable[[str], float],
    clock: Clock,
) -> str:
    """Watch a ready replica's pulse; returns only when it is lost, with the reason."""
    async with Probe(life.address, life.token) as probe:
        watcher = _Watcher(probe, engine, readiness, policy, clock)
        try:
            while True:
                reason = await watcher.step(last_token_s(life.id))
                if reason is not None:
                    return reason
                await clock.sleep(_LOOK_EVERY_S)
        finally:
            await watcher.close()


async def wait_until_idle(life: Life, engine: Engine, policy: ReplicaPolicy, clock: Clock) -> None:
    """Return when nothing runs on the replica, or after the grace time. It gets no new requests by now."""
    deadline_s = clock.monotonic_s() + policy.drain_grace_s
    await clock.sleep(policy.snapshot_spread_s)
    idle_looks = 0
    async with Probe(life.address, life.token) as probe:
        while idle_looks < _IDLE_LOOKS and clock.monotonic_s() < deadline_s:
            load = await probe.load(engine, _LOAD_DEADLINE_S)
            if load is None and engine.load_path is None:
                return
            idle_looks = idle_looks + 1 if _is_idle(load) else 0
            await clock.sleep(_LOOK_EVERY_S)


def _is_idle(load: Load | None) -> bool:
    return load is not None and load.running + load.waiting == 0


class _Watcher:
    """One pulse, and the probe that may be under way."""

    def __init__(
        self, probe: Probe, engine: Engine, readiness: Readiness, policy: ReplicaPolicy, clock: Clock
    ) -> None:
        self._probe = probe
        self._engine = engine
        self._readiness = readiness
        self._policy = policy
        self._clock = clock
        self._pulse = Pulse(last_sign_s=clock.monotonic_s())
        self._asking: asyncio.Task[None] | None = None

    async def step(self, last_token_s: float) -> str | None:
        """One look: take in what came, ask when it is time; the reason when the pulse is lost."""
        self._pulse = with_traffic(self._pulse, last_token_s)
        self._take_answer()
        if self._asking is not None:
            await self._look_at_load()
        now_s = self._clock.monotonic_s()
        if is_due(self._pulse, self._policy, now_s):
            self._pulse = with_question(self._pulse, now_s)
            # The pulse decides when to give up; the time-out only frees the connection.
            ask = self._probe.require_token(self._readiness, 2 * self._policy.busy_answer_s)
            self._asking = asyncio.create_task(ask)
        return why_hung(self._pulse, self._policy, now_s)

    async def close(self) -> None:
        """Give up the probe that is under way."""
        if self._asking is not None:
            self._asking.cancel()
            with contextlib.suppress(asyncio.CancelledError, EngineFailed):
                await self._asking

    def _take_answer(self) -> None:
        if self._asking is None or not self._asking.done():
            return
        problem = self._asking.exception()
        now_s = self._clock.monotonic_s()
        self._pulse = (
            with_sign(self._pulse, now_s) if problem is None else with_wrong_answer(self._pulse, now_s)
        )
        self._asking = None

    async def _look_at_load(self) -> None:
        load = await self._probe.load(self._engine, _LOAD_DEADLINE_S)
        if load is not None:
            self._pulse = with_load(self._pulse, load, self._clock.monotonic_s())
