"""The queue in front of replicas: places, order, cancellation, trouble."""

import asyncio

import pytest

from outpace.scheduling.queue import ReplicaQueue
from outpace.values.errors import ModelLoading, Overloaded
from outpace.values.snapshot import ReplicaEntry


def replica(name: str, most: int | None = 1) -> ReplicaEntry:
    return ReplicaEntry(id=name, address=f"unix:/{name}", max_in_flight=most)


def queue_of(*replicas: ReplicaEntry, max_waiting: int = 10) -> ReplicaQueue:
    queue = ReplicaQueue(max_waiting=max_waiting)
    queue.update(replicas)
    return queue


async def test_without_replicas_the_caller_is_told_at_once() -> None:
    with pytest.raises(ModelLoading):
        await ReplicaQueue().acquire(0.0)


async def test_work_goes_to_the_replica_with_the_least() -> None:
    queue = queue_of(replica("a", None), replica("b", None))
    first, second = await queue.acquire(0.0), await queue.acquire(0.0)
    assert {first.id, second.id} == {"a", "b"}
    queue.release("a")
    assert (await queue.acquire(0.0)).id == "a"


async def test_first_come_first_served() -> None:
    queue = queue_of(replica("a"))
    await queue.acquire(0.0)
    order: list[int] = []

    async def wait(number: int) -> None:
        await queue.acquire(0.0)
        order.append(number)

    tasks = [asyncio.create_task(wait(number)) for number in range(3)]
    await asyncio.sleep(0)
    for _ in range(3):
        queue.release("a")
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2]


async def test_a_cancelled_waiter_leaves_at_once_and_loses_no_place() -> None:
    queue = queue_of(replica("a"))
    await queue.acquire(0.0)
    gone = asyncio.create_task(queue.acquire(0.0))
    stays = asyncio.create_task(queue.acquire(0.0))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    assert queue.waiting == 1
    queue.release("a")
    assert (await stays).id == "a"


async def test_a_place_given_to_a_caller_who_left_is_passed_on() -> None:
    queue = queue_of(replica("a"))
    await queue.acquire(0.0)
    gone = asyncio.create_task(queue.acquire(0.0))
    await asyncio.sleep(0)
    queue.release("a")  # the place is handed over ...
    gone.cancel()  # ... in the moment in which its owner leaves
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert queue.in_flight == 0
    assert (await queue.acquire(0.0)).id == "a"


async def test_a_full_queue_refuses() -> None:
    queue = queue_of(replica("a"), max_waiting=1)
    await queue.acquire(0.0)
    waiting = asyncio.create_task(queue.acquire(0.0))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await queue.acquire(0.0)
    waiting.cancel()


async def test_a_replica_in_trouble_is_the_last_resort() -> None:
    queue = queue_of(replica("a", None), replica("b", None))
    queue.avoid("a", until_s=10.0)
    assert [(await queue.acquire(5.0)).id for _ in range(3)] == ["b", "b", "b"]
    assert (await queue.acquire(11.0)).id == "a"


async def test_the_retry_prefers_another_replica() -> None:
    queue = queue_of(replica("a", None), replica("b", None))
    assert (await queue.acquire(0.0, excluded=frozenset({"a"}))).id == "b"
    assert (await queue_of(replica("a")).acquire(0.0, excluded=frozenset({"a"}))).id == "a"


async def test_new_replicas_serve_those_who_wait() -> None:
    queue = queue_of(replica("a"))
    await queue.acquire(0.0)
    waiting = asyncio.create_task(queue.acquire(0.0))
    await asyncio.sleep(0)
    queue.update([replica("a"), replica("b")])
    assert (await waiting).id == "b"


async def test_waiters_hear_why_nothing_will_come() -> None:
    queue = queue_of(replica("a"))
    await queue.acquire(0.0)
    waiting = asyncio.create_task(queue.acquire(0.0))
    await asyncio.sleep(0)
    queue.fail_waiting("the model is no longer served")
    with pytest.raises(ModelLoading, match="no longer served"):
        await waiting
