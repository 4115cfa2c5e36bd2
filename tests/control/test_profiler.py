"""When a variant is measured: while nobody asks, once, and giving way to live requests."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from outpace.control.profiler import MOST_TRIES, QUIET_S, Profiler
from outpace.control.served import Served
from outpace.scheduling.autoscale import Pressure
from outpace.values.clock import ManualClock
from outpace.values.deployment import DeploymentSpec
from outpace.values.errors import EngineFailed


class Rig:
    """A profiler with one deployment, its load, and a measurement that ends when told."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.pressure = Pressure(idle_for_s=QUIET_S)
        resolved = SimpleNamespace(profile=None, profile_reason="not measured yet", engine="llamacpp")
        served = SimpleNamespace(
            resolved=resolved,
            is_here=True,
            problem=None,
            digest="d",
            require_resolved=lambda: resolved,
            wanted=SimpleNamespace(spec=DeploymentSpec(name="m")),
        )
        self.resolved: Any = resolved
        self.asked: list[str] = []
        self.ends = asyncio.Event()
        self.is_cancelled = False
        self.profiler = Profiler(
            self._profile,
            lambda: {"m": cast(Served, served)},
            lambda name, now_s: self.pressure,
            self.clock,
            asyncio.Lock(),
        )

    async def _profile(self, spec: DeploymentSpec, engine: str) -> None:
        self.asked.append(spec.name)
        try:
            await self.ends.wait()
        except asyncio.CancelledError:
            self.is_cancelled = True
            raise

    async def pass_s(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.clock.advance(1.0)
            for _ in range(8):
                await asyncio.sleep(0)


@pytest.fixture
async def rig() -> Any:
    made = Rig()
    running = asyncio.create_task(made.profiler.run())
    await asyncio.sleep(0)
    yield made
    running.cancel()


async def test_it_measures_when_the_machine_was_quiet_for_a_while(rig: Rig) -> None:
    rig.pressure = Pressure(idle_for_s=QUIET_S - 1)
    await rig.pass_s(3)
    assert rig.asked == []
    rig.pressure = Pressure(idle_for_s=QUIET_S)
    await rig.pass_s(2)
    assert rig.asked == ["m"]


async def test_a_request_ends_it_and_it_is_tried_again_a_few_times(rig: Rig) -> None:
    for _ in range(MOST_TRIES + 2):
        rig.pressure = Pressure(idle_for_s=1000)
        await rig.pass_s(3)
        rig.pressure = Pressure(running=1)
        await rig.pass_s(3)
    assert rig.is_cancelled
    assert rig.asked == ["m"] * MOST_TRIES


async def test_what_was_just_measured_is_not_measured_again_before_it_is_seen(rig: Rig) -> None:
    await rig.pass_s(2)
    rig.ends.set()
    await rig.pass_s(5)
    assert rig.asked == ["m"]


async def test_a_measured_variant_is_left_alone(rig: Rig) -> None:
    rig.resolved.profile, rig.resolved.profile_reason = SimpleNamespace(measured_at=1.0), None
    await rig.pass_s(5)
    assert rig.asked == []


async def test_a_part_of_a_profile_is_gone_on_with_until_it_brings_nothing_more(rig: Rig) -> None:
    rig.resolved.profile = SimpleNamespace(measured_at=1.0)
    rig.resolved.profile_reason = "what guesses gain is not measured yet"
    rig.ends.set()
    await rig.pass_s(5)
    assert rig.asked == ["m"]
    rig.resolved.profile = SimpleNamespace(measured_at=2.0)
    await rig.pass_s(5)
    assert rig.asked == ["m", "m"]


async def test_what_cannot_be_measured_is_not_tried_again(tmp_path: Path) -> None:
    rig = Rig()
    tries = []

    async def fails(spec: DeploymentSpec, engine: str) -> None:
        tries.append(spec.name)
        raise EngineFailed("no")

    rig.profiler._profile = fails
    running = asyncio.create_task(rig.profiler.run())
    await asyncio.sleep(0)
    await rig.pass_s(6)
    running.cancel()
    assert tries == ["m"]
