"""Bringing a replica up, with a real engine process that is slow, mute, or wrong."""

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from tests.fleet.launching import environment

from outpace.engines.registry import engine
from outpace.fleet.probe import Probe, has_token
from outpace.fleet.replicas import Life, ReplicaPolicy
from outpace.fleet.tend import bring_up, watch
from outpace.values.clock import SystemClock
from outpace.values.deployment import LaunchOrder
from outpace.values.errors import EngineTimedOut
from outpace.values.snapshot import DeploymentEntry

CLOCK = SystemClock()
ENTRY = DeploymentEntry(
    name="e",
    model="echo",
    engine_model="e",
    engine="echo",
    state="starting",
    created=0,
    owned_by="t",
    tasks=("completions",),
)


@contextmanager
def _replica(folder: Path, **settings: str | int | float | bool) -> Iterator[Life]:
    order = LaunchOrder(
        replica_id="e@1",
        deployment="e",
        model="echo",
        artifact_path=None,
        tasks=("completions",),
        context_tokens=100,
        parallel=1,
        threads=1,
        socket_dir=str(folder),
        token="secret",
        engine_settings=settings,
    )
    launch = engine("echo").launch(order)
    process = subprocess.Popen(launch.argv, env={**environment(), **launch.env}, stderr=subprocess.DEVNULL)
    try:
        yield Life(
            id="e@1",
            deployment="e",
            digest="d",
            state="starting",
            address=launch.address,
            token=launch.token,
            started_s=CLOCK.monotonic_s(),
        )
    finally:
        process.kill()
        process.wait()


async def test_a_slow_start_is_waited_for_until_it_gives_a_token(tmp_path: Path) -> None:
    with _replica(tmp_path, slow_start_ms=300.0) as life:
        await bring_up(life, engine("echo").readiness(ENTRY), CLOCK)
        assert CLOCK.monotonic_s() - life.started_s >= 0.3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"hang": True}, "it answers, but gives no token|no answer within"),
        ({"garbage": True}, "answered with status 500"),
        ({"error_status": 503}, "answered with status 503"),
        ({"crash": True}, "no answer"),
        ({"slow_start_ms": 60_000.0}, "does not answer|no answer"),
    ],
)
async def test_a_replica_that_gives_no_token_is_overdue_and_says_why(
    tmp_path: Path, settings: dict[str, str | int | float | bool], said: str
) -> None:
    readiness = msgspec.structs.replace(engine("echo").readiness(ENTRY), start_deadline_s=1.0)
    with (
        _replica(tmp_path, **settings) as life,
        pytest.raises(EngineTimedOut, match=f"not ready after 1 s: .*({said})"),
    ):
        await bring_up(life, readiness, CLOCK)


async def test_a_replica_whose_token_stays_away_is_lost_though_its_health_is_fine(tmp_path: Path) -> None:
    policy = ReplicaPolicy(probe_every_s=0.1, idle_answer_s=0.3)
    with _replica(tmp_path, delay_ms=3_000_000.0) as life:
        async with Probe(life.address, life.token) as probe, asyncio.timeout(20):
            while not await probe.is_up("/health", 1.0):
                await asyncio.sleep(0.01)
        echo = engine("echo")
        reason = await watch(life, echo, echo.readiness(ENTRY), policy, lambda _: float("-inf"), CLOCK)
    assert reason.startswith("no token for")


@pytest.mark.parametrize(
    ("body", "is_token"),
    [
        (b'{"choices":[{"text":"x"}]}', True),
        (b'{"choices":[{"text":"x"}],"usage":{"completion_tokens":1}}', True),
        (b'{"choices":[{"text":""}],"usage":{"completion_tokens":0}}', False),
        (b'{"data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":1}}', True),
        (b'{"choices":[]}', False),
        (b'{"error":{"message":"x"}}', False),
        (b"<html>", False),
        (b"[]", False),
        (b"", False),
    ],
)
def test_what_counts_as_a_token(body: bytes, is_token: bool) -> None:
    assert has_token(body) == is_token
