"""How long a caller waits for the first token of a deployment at zero, by what stands by; through the real gateway."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import msgspec

from outpace.lab.figures import Sample
from outpace.lab.load import LoadClient, Target
from outpace.lab.recorded import Scale, load
from outpace.scheduling.standing import Point, Step, curve
from outpace.values.clock import Clock
from outpace.values.errors import EngineFailed, InvalidInput

# What stands by, cheapest first, as `replicas.standby` has it.
STEPS: dict[str, dict[str, int]] = {"nothing": {}, "imported": {"imported": 1}, "loaded": {"loaded": 1}}
_LOOK_EVERY_S = 0.1
_ASLEEP_DEADLINE_S = 120.0
# After what stands by is there, so that nothing of its start runs beside the measurement.
_SETTLE_S = 1.0
_CLOSE_TO_ALL = 0.95
# Of a replica's price, by memory, while nothing is awake: an imported one has the memory of a replica at hand
# (decision 0041), for every sleeping deployment of its engine together.
SHARES = {"nothing": 0.0, "imported": 1.0, "loaded": 1.0}


class Platform(msgspec.Struct, frozen=True, kw_only=True):
    """The running platform as the benchmark drives it: what the admin door answers, as documents."""

    base_url: str
    api_key: str
    name: str
    deploy: Callable[[dict[str, Any]], object]
    sleep: Callable[[], object]
    look: Callable[[], dict[str, Any]]


class Woken(msgspec.Struct, frozen=True, kw_only=True):
    """Wakes with one thing standing by: seconds to the first token, and the bills of the starts."""

    step: str
    first_token_s: tuple[float, ...]
    bills: tuple[dict[str, Any], ...] = ()

    @property
    def p50_s(self) -> float:
        """The median wait."""
        return median(self.first_token_s)

    @property
    def p95_s(self) -> float:
        """19 of 20 waits are no longer."""
        return percentile(self.first_token_s, _CLOSE_TO_ALL)

    def phases_s(self) -> dict[str, float]:
        """The median of each phase that the starts told."""
        told: dict[str, list[float]] = {}
        for bill in self.bills:
            for phase, took_s in bill["phases_s"].items():
                told.setdefault(phase, []).append(took_s)
        return {phase: median(took) for phase, took in told.items()}


class Crowd(msgspec.Struct, frozen=True, kw_only=True):
    """Many callers at once at a deployment at zero."""

    callers: int
    answered: int
    errors: dict[str, int]
    starts: int
    first_s: float
    last_s: float


def percentile(values: tuple[float, ...] | list[float], share: float) -> float:
    """The value that `share` of them do not pass."""
    if len(values) == 1:
        return values[0]
    return quantiles(values, n=100, method="inclusive")[round(share * 100) - 1]


async def wake(platform: Platform, step: str, runs: int, clock: Clock, say: Callable[[str], None]) -> Woken:
    """Let it sleep and wake it, `runs` times. Raises EngineFailed when it does not sleep or answer."""
    platform.deploy(STEPS[step])
    waits: list[float] = []
    bills: list[dict[str, Any]] = []
    async with LoadClient(_target(platform), clock) as client:
        for run in range(runs):
            say(f"{step}: wake {run + 1} of {runs}")
            await asleep(platform, STEPS[step], clock)
            asked_at = clock.wall_s()
            sample = await client.ask(_question(run), 4, clock.monotonic_s())
            if sample.ttft_s is None:
                raise EngineFailed(f"{platform.name} did not answer: {sample.error or 'no text came'}")
            waits.append(sample.ttft_s)
            bills += await _bills_since(platform, asked_at, STEPS[step], clock)
    return Woken(step=step, first_token_s=tuple(waits), bills=tuple(bills))


def _question(number: int) -> list[dict[str, str]]:
    """Another one each time: an answer whose prompt was read before comes sooner."""
    return [{"role": "user", "content": f"Say hello to visitor {number}."}]


def prices(
    woken: Sequence[Woken], arrivals_s: Sequence[float], service_s: float, idle_choices_s: Sequence[float]
) -> list[Point]:
    """What each measured step would have cost with these arrivals, and how long they would have waited."""
    steps = [Step(name=each.step, wake_s=each.p50_s, share=SHARES[each.step]) for each in woken]
    return curve(arrivals_s, service_s, steps, idle_choices_s)


def arrivals_of(path: Path, stretch: float) -> list[float]:
    """Moments of the requests in a trace, spread over `stretch` times their span. Raises InvalidInput."""
    found = [one.at_s for one in load(path, Scale(time=stretch)) if one.at_s is not None]
    if not found:
        raise InvalidInput("arrivals", f"{path} tells no time of arrival")
    return sorted(found)


async def crowd(platform: Platform, callers: int, clock: Clock) -> Crowd:
    """`callers` at once, nothing standing by: who was answered, and how many starts it took."""
    platform.deploy(STEPS["nothing"])
    await asleep(platform, STEPS["nothing"], clock)
    asked_at = clock.wall_s()
    async with LoadClient(_target(platform), clock) as client:
        began_s = clock.monotonic_s()
        samples: list[Sample] = await asyncio.gather(
            *(client.ask(_question(caller), 1, began_s) for caller in range(callers))
        )
    errors: dict[str, int] = {}
    for sample in samples:
        if sample.error is not None:
            errors[sample.error] = errors.get(sample.error, 0) + 1
    ended_s = [sample.ended_s for sample in samples]
    starts = await _bills_since(platform, asked_at, {}, clock)
    return Crowd(
        callers=callers,
        answered=sum(sample.error is None for sample in samples),
        errors=errors,
        starts=len(starts),
        first_s=min(ended_s),
        last_s=max(ended_s),
    )


async def asleep(platform: Platform, standby: dict[str, int], clock: Clock) -> None:
    """Put it to sleep and return when nothing runs but what shall stand by. Raises EngineFailed."""
    platform.sleep()
    deadline_s = clock.monotonic_s() + _ASLEEP_DEADLINE_S
    while not is_asleep(platform.look(), standby):
        if clock.monotonic_s() > deadline_s:
            raise EngineFailed(f"{platform.name} was not asleep after {_ASLEEP_DEADLINE_S:.0f} s")
        await clock.sleep(_LOOK_EVERY_S)
    await clock.sleep(_SETTLE_S)


def is_asleep(deployment: dict[str, Any], standby: dict[str, int]) -> bool:
    """It sleeps, and of replicas and imported processes exactly those are there that stand by."""
    states = [replica["state"] for replica in deployment["replicas"]]
    there = deployment["standby"]
    return (
        deployment["state"] == "sleeping"
        and states == ["standby"] * standby.get("loaded", 0)
        and there["imported"] == standby.get("imported", 0)
    )


async def _bills_since(
    platform: Platform, asked_at: float, standby: dict[str, int], clock: Clock
) -> list[dict[str, Any]]:
    """Bills of the starts that callers waited for; a loaded one was handed over, which is no start."""
    if standby.get("loaded"):
        return []
    deadline_s = clock.monotonic_s() + _SETTLE_S
    while True:
        bills = [bill for bill in platform.look()["starts"] if bill["at"] >= asked_at]
        if bills or clock.monotonic_s() > deadline_s:
            return bills
        await clock.sleep(_LOOK_EVERY_S)


def _target(platform: Platform) -> Target:
    return Target(address=platform.base_url, model=platform.name, token=platform.api_key)
