"""Profiles are measured in the background: one variant at a time, while nobody asks anything of the machine."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from outpace.control.served import Served
from outpace.scheduling.autoscale import Pressure
from outpace.values.clock import Clock
from outpace.values.deployment import DeploymentSpec
from outpace.values.errors import OutpaceError

_LOG = structlog.get_logger()
_LOOK_EVERY_S = 1.0
# A start is when people try things.
QUIET_S = 15.0
# Ended for live traffic this often, it is left to `outpace profile`.
MOST_TRIES = 5


class Profiler:
    """The loop that asks for profiles; what it measured, `Served.reconsider_when_due` picks up from disk."""

    def __init__(
        self,
        profile: Callable[[DeploymentSpec, str], Awaitable[None]],
        served: Callable[[], Mapping[str, Served]],
        pressure: Callable[[str, float], Pressure],
        clock: Clock,
        alone: asyncio.Lock,
    ) -> None:
        self._profile = profile
        self._served = served
        self._pressure = pressure
        self._clock = clock
        self._alone = alone
        # By variant and the profile that it had then: a partial one is gone on with once it is picked up.
        self._tries: dict[tuple[str, str, float], int] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._clock.sleep(_LOOK_EVERY_S)
            name = self.due(self._clock.monotonic_s())
            if name is not None:
                async with self._alone:
                    await self._measure(name)

    def due(self, now_s: float) -> str | None:
        """A variant without a whole profile here, by its replicas' id, when the machine has been quiet for a while."""
        if self._alone.locked() or not self._is_quiet(now_s, QUIET_S):
            return None
        return next((name for name, served in self._served().items() if self._wants(name, served)), None)

    def _wants(self, name: str, served: Served) -> bool:
        resolved = served.resolved
        if resolved is None or not served.is_here or served.problem is not None:
            return False
        is_wanted = resolved.profile_reason is not None
        return is_wanted and self._tries.get(_key(name, served), 0) < MOST_TRIES

    def _is_quiet(self, now_s: float, for_s: float) -> bool:
        names = {served.wanted.spec.name for served in self._served().values()}
        pressures = [self._pressure(name, now_s) for name in names]
        return all(not each.running and not each.waiting and each.idle_for_s >= for_s for each in pressures)

    async def _measure(self, name: str) -> None:
        """Measure one variant; the first request that comes meanwhile ends it, and it is tried again later."""
        served = self._served()[name]
        key = _key(name, served)
        self._tries[key] = self._tries.get(key, 0) + 1
        _LOG.info("profile_started", deployment=name)
        began_s = self._clock.monotonic_s()
        engine = served.require_resolved().engine
        measuring = asyncio.ensure_future(self._profile(served.wanted.spec, engine))
        try:
            while not measuring.done():
                looked = asyncio.ensure_future(self._clock.sleep(_LOOK_EVERY_S))
                await asyncio.wait({measuring, looked}, return_when=asyncio.FIRST_COMPLETED)
                looked.cancel()
                now_s = self._clock.monotonic_s()
                if not measuring.done() and not self._is_quiet(now_s, now_s - began_s):
                    measuring.cancel()
                    _LOG.info("profile_gave_way", deployment=name)
                    await asyncio.wait({measuring})
                    return
            measuring.result()
            # It is picked up from disk within seconds: not to be measured again until then.
            self._tries[key] = MOST_TRIES
            _LOG.info("profile_ended", deployment=name)
        except (OutpaceError, OSError) as error:
            self._tries[key] = MOST_TRIES
            _LOG.warning("profile_failed", deployment=name, reason=str(error))
        finally:
            measuring.cancel()


def _key(name: str, served: Served) -> tuple[str, str, float]:
    profile = served.require_resolved().profile
    return name, served.digest, profile.measured_at if profile is not None else 0.0
