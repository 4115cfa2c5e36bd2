"""The scheduler's policies before real echo replicas: everybody is served, shares and homes as promised."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from outpace.engines.registry import engine
from outpace.lab import scheduled as lab
from outpace.lab.replica import LabVariant, running
from outpace.lab.scheduled import Scheduled, Side, small_key
from outpace.lab.workload import conversations, named
from outpace.values.clock import SystemClock

CLOCK = SystemClock()


@asynccontextmanager
async def replicas(count: int, order: str = "fair", places: int = 4) -> AsyncIterator[Scheduled]:
    variant = LabVariant(
        model="echo",
        artifact_path=Path("/"),
        context_tokens=8_192,
        parallel=places,
        engine_settings={"token_interval_ms": 1},
    )
    async with AsyncExitStack() as stack:
        started = [
            await stack.enter_async_context(running(engine("echo"), variant, CLOCK)) for _ in range(count)
        ]
        yield await stack.enter_async_context(
            Scheduled(started, Side(model="echo", engine="echo", places=places), order, CLOCK)
        )


@pytest.mark.parametrize("order", ["fair", "fifo", "gang"])
async def test_every_order_serves_everybody(order: str) -> None:
    async with replicas(1, order) as scheduled:
        figures = await scheduled.closed(conversations(named("multi-turn"), 6), users=6)
        assert figures.errors == 0
        assert figures.requests >= 6 * 3
        assert scheduled.queue.in_flight == scheduled.queue.waiting == 0


async def test_conversations_keep_their_replica_and_both_have_work() -> None:
    async with replicas(2) as scheduled:
        figures = await scheduled.closed(conversations(named("multi-turn"), 16), users=8)
        assert figures.errors == 0
        assert set(scheduled.work) == {"r0", "r1"}
        assert scheduled.imbalance < 2


async def test_a_small_key_is_answered_while_another_floods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab, "FLOOD_USERS", 12)
    async with replicas(1) as scheduled:
        seen = await small_key(scheduled, ["a b c", "d e f"], CLOCK, flooded=True)
        assert seen.ttft_p95_ms > 0
        assert scheduled.queue.in_flight == scheduled.queue.waiting == 0
