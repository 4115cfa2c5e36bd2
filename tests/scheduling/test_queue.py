"""The queue in front of replicas: places, order, cancellation, trouble, holding for what is not there yet."""

import asyncio
from itertools import count
from typing import Any

import pytest

from outpace.scheduling.queue import ReplicaQueue
from outpace.scheduling.tickets import Ticket
from outpace.values.clock import ManualClock
from outpace.values.errors import ModelLoading, Overloaded
from outpace.values.signals import DeploymentDemand
from outpace.values.snapshot import DeploymentEntry, ReplicaEntry, VariantEntry

NAMES = count()


def replica(name: str, most: int | None = 1, variant: str = "") -> ReplicaEntry:
    return ReplicaEntry(id=name, address=f"unix:/{name}", max_in_flight=most, variant=variant)


def entry(*replicas: ReplicaEntry, **fields: Any) -> DeploymentEntry:
    known: dict[str, Any] = {
        "name": "d", "model": "d", "engine_model": "d", "engine": "echo", "state": "ready", "created": 0,
        "owned_by": "test", "tasks": ("chat",), "replicas": replicas,
    }  # fmt: skip
    return DeploymentEntry(**(known | fields))


class Rig:
    """A queue with a clock, and callers who wait in it."""

    def __init__(self, *replicas: ReplicaEntry, **fields: Any) -> None:
        self.clock = ManualClock()
        self.queue = ReplicaQueue(self.clock.monotonic_s, **fields)
        self.queue.update(entry(*replicas))
        self.given: list[str] = []

    def ticket(self, key: str = "k", tokens: int = 1, **fields: Any) -> Ticket:
        now_s = self.clock.monotonic_s()
        ticket = Ticket(key, arrived_s=now_s, deadline_s=now_s + 60, output_tokens=tokens, **fields)
        self.queue.arrive(ticket)
        return ticket

    def take(self, key: str = "k", **fields: Any) -> str:
        found = self.queue.take(self.ticket(key, **fields))
        assert found is not None
        return found.id

    async def waiting(self, key: str = "k", **fields: Any) -> tuple[Ticket, "asyncio.Task[ReplicaEntry]"]:
        ticket = self.ticket(key, **fields)
        assert self.queue.take(ticket) is None
        task = asyncio.create_task(self.queue.wait(ticket))
        task.add_done_callback(lambda _: self.given.append(ticket.key))
        await asyncio.sleep(0)
        return ticket, task


async def test_work_goes_to_the_replica_with_the_least() -> None:
    rig = Rig(replica("a", None), replica("b", None))
    heavy = rig.ticket(tokens=100)
    first = rig.queue.take(heavy)
    assert first is not None
    other = {"a": "b", "b": "a"}[first.id]
    assert [rig.take(tokens=10) for _ in range(3)] == [other] * 3
    rig.queue.release(first.id, heavy)
    assert rig.take() == first.id


async def test_the_requests_of_one_key_go_in_order() -> None:
    rig = Rig(replica("a"))
    held = rig.ticket()
    rig.queue.take(held)
    waiting = [await rig.waiting() for _ in range(3)]
    rig.queue.release("a", held)
    for ticket, task in waiting:
        assert (await task).id == "a"
        rig.queue.release("a", ticket)
    assert rig.queue.in_flight == 0


async def test_a_key_with_little_work_does_not_wait_behind_a_flood() -> None:
    rig = Rig(replica("a"))
    held = rig.ticket("flood")
    rig.queue.take(held)
    flood = [await rig.waiting("flood", tokens=100) for _ in range(5)]
    _, small = await rig.waiting("small", tokens=10)
    rig.queue.release("a", held)
    await asyncio.sleep(0)
    # The flood was given something already, the other key nothing.
    assert small.done()
    for _, task in flood:
        task.cancel()


async def test_first_come_first_served_lets_it_wait() -> None:
    rig = Rig(replica("a"), order="fifo")
    held = rig.ticket("flood")
    rig.queue.take(held)
    flood = [await rig.waiting("flood", tokens=100) for _ in range(5)]
    _, small = await rig.waiting("small", tokens=10)
    rig.queue.release("a", held)
    await asyncio.sleep(0)
    assert flood[0][1].done()
    assert not small.done()
    for _, task in [*flood, (None, small)]:
        task.cancel()


async def test_a_place_is_kept_for_another_key_that_is_about() -> None:
    rig = Rig(replica("a", 4))
    rig.queue.release(rig.take("other"), rig.ticket("other"))
    assert [rig.take("flood") for _ in range(3)] == ["a"] * 3
    assert rig.queue.take(rig.ticket("flood")) is None
    assert rig.take("other") == "a"


async def test_a_key_alone_gets_every_place() -> None:
    rig = Rig(replica("a", 4))
    assert [rig.take("only") for _ in range(4)] == ["a"] * 4
    rig = Rig(replica("a", 4))
    rig.queue.release(rig.take("other"), rig.ticket("other"))
    rig.clock.advance(61)
    assert [rig.take("only") for _ in range(4)] == ["a"] * 4


async def test_a_cancelled_waiter_leaves_at_once_and_loses_no_place() -> None:
    rig = Rig(replica("a"))
    held = rig.ticket()
    rig.queue.take(held)
    _, gone = await rig.waiting()
    _, stays = await rig.waiting()
    gone.cancel()
    await asyncio.sleep(0)
    assert rig.queue.waiting == 1
    rig.queue.release("a", held)
    assert (await stays).id == "a"


async def test_a_place_given_to_a_caller_who_left_is_passed_on() -> None:
    rig = Rig(replica("a"))
    held = rig.ticket()
    rig.queue.take(held)
    _, gone = await rig.waiting()
    rig.queue.release("a", held)  # the place is handed over ...
    gone.cancel()  # ... in the moment in which its owner leaves
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert rig.queue.in_flight == 0
    assert rig.take() == "a"


async def test_a_caller_cancelled_in_the_moment_of_a_release_gets_no_place() -> None:
    rig = Rig(replica("a"))
    held = rig.ticket()
    rig.queue.take(held)
    _, gone = await rig.waiting()
    _, stays = await rig.waiting()
    gone.cancel()  # it has not run yet ...
    rig.queue.release("a", held)  # ... when the place becomes free
    assert (await stays).id == "a"
    assert (rig.queue.in_flight, rig.queue.waiting, rig.queue.demand().waiting_tokens) == (1, 0, 0)
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_a_full_queue_refuses() -> None:
    rig = Rig(replica("a"), max_waiting=1)
    rig.take()
    _, waiting = await rig.waiting()
    with pytest.raises(Overloaded):
        await rig.queue.wait(rig.ticket())
    waiting.cancel()


async def test_a_replica_that_cannot_be_reached_rests_and_is_then_probed_by_one() -> None:
    rig = Rig(replica("a", None), replica("b", None))
    ticket = rig.ticket()
    rig.queue.take(ticket)
    rig.queue.broke("a", at_connect=True)
    assert [rig.take() for _ in range(3)] == ["b", "b", "b"]
    rig.clock.advance(0.6)
    assert rig.take() == "a"  # the probe
    assert rig.take() == "b"
    rig.queue.answered("a")
    assert [rig.take() for _ in range(2)] == ["a", "a"]


async def test_when_every_replica_rests_the_caller_hears_when_the_next_try_is() -> None:
    rig = Rig(replica("a", None))
    for _ in range(4):
        rig.queue.broke("a", at_connect=True)
        rig.clock.advance(31)
    rig.queue.broke("a", at_connect=True)
    assert rig.queue.take(rig.ticket()) is None
    with pytest.raises(Overloaded, match="next try") as refused:
        await rig.queue.wait(rig.ticket())
    assert refused.value.retry_after_s == 8


async def test_a_short_rest_is_waited_for() -> None:
    rig = Rig(replica("a", None))
    rig.queue.broke("a", at_connect=True)
    _, waiting = await rig.waiting()
    assert not waiting.done()
    rig.clock.advance(0.6)
    assert (await asyncio.wait_for(waiting, 5)).id == "a"


async def test_the_retry_prefers_another_replica() -> None:
    rig = Rig(replica("a", None), replica("b", None))
    ticket = rig.ticket()
    ticket.excluded = frozenset({"a"})
    found = rig.queue.take(ticket)
    assert found is not None
    assert found.id == "b"
    alone = Rig(replica("a"))
    ticket = alone.ticket()
    ticket.excluded = frozenset({"a"})
    assert alone.queue.take(ticket) is not None


async def test_new_replicas_serve_those_who_wait() -> None:
    rig = Rig(replica("a"))
    rig.take()
    _, waiting = await rig.waiting()
    rig.queue.update(entry(replica("a"), replica("b")))
    assert (await waiting).id == "b"


async def test_a_replica_that_leaves_ends_what_it_has() -> None:
    rig = Rig(replica("a"), replica("b"))
    held = rig.ticket()
    found = rig.queue.take(held)
    assert found is not None
    rig.queue.update(entry(replica({"a": "b", "b": "a"}[found.id])))
    assert rig.queue.in_flight == 1
    rig.queue.release(found.id, held)
    assert rig.queue.in_flight == 0


# -- nothing there


async def test_callers_are_held_for_a_start_and_their_time_is_told() -> None:
    rig = Rig()
    ticket, waiting = await rig.waiting()
    assert not rig.queue.is_ready
    rig.clock.advance(3)
    demand = rig.queue.demand()
    assert (demand.waiting, demand.waiting_tokens, demand.oldest_wait_s) == (1, 1, 3)
    rig.queue.update(entry(replica("a")))
    assert (await waiting).id == "a"
    assert ticket.held_s == 3
    assert rig.queue.demand().running == 1


async def test_who_waits_hears_why_nothing_will_come() -> None:
    rig = Rig()
    _, waiting = await rig.waiting()
    rig.queue.update(entry(state="failed", reason="weights are corrupt"))
    with pytest.raises(ModelLoading, match="weights are corrupt"):
        await waiting
    assert rig.queue.waiting == rig.queue.demand().waiting_tokens == 0


async def test_a_deadline_that_passes_in_a_start_tells_when_to_come_back() -> None:
    rig = Rig()
    rig.queue.update(entry(state="starting", ready_in_s=20.0))
    ticket, waiting = await rig.waiting()
    rig.clock.advance(5)
    rig.queue.expire(ticket)
    with pytest.raises(ModelLoading, match=r"expected to answer in 15 s") as told:
        await waiting
    assert told.value.retry_after_s == 15
    assert rig.queue.waiting == 0


async def test_a_deadline_that_passes_in_the_queue_is_told_too() -> None:
    rig = Rig(replica("a"))
    rig.take()
    ticket, waiting = await rig.waiting()
    rig.queue.expire(ticket)
    with pytest.raises(Overloaded, match="deadline"):
        await waiting
    rig.queue.expire(ticket)  # late timers change nothing


# -- deadlines that cannot be met


def measured(speed: float, most: int = 1) -> VariantEntry:
    return VariantEntry(id="v", engine="echo", engine_model="d", speeds=((1, speed),), in_flight=most)


async def test_a_deadline_that_cannot_be_met_is_refused_at_once() -> None:
    rig = Rig()
    rig.queue.update(entry(replica("a", variant="v"), variants=(measured(100.0),)))
    rig.take(tokens=100)
    rig.queue.take(rig.ticket())
    waiting = [await rig.waiting(tokens=2_000) for _ in range(4)]
    late = rig.ticket()
    late.deadline_s = late.arrived_s + 10
    with pytest.raises(Overloaded, match="expected wait") as refused:
        await rig.queue.wait(late)
    assert 1 <= (refused.value.retry_after_s or 0) <= 60
    # With a fair line another key does not wait behind all that.
    ticket, other = await rig.waiting("other", tokens=10)
    ticket.deadline_s = ticket.arrived_s + 10
    assert not other.done()
    for _, task in [*waiting, (None, other)]:
        task.cancel()


async def test_a_variant_s_limit_is_shared_by_workers_and_what_others_leave_is_used() -> None:
    rig = Rig(num_workers=2)
    rig.queue.update(entry(replica("a", 2, "v"), variants=(measured(100.0, most=4),)))
    busy = DeploymentDemand(running=2)
    rig.queue.see_peers([busy])
    assert [rig.take() for _ in range(2)] == ["a", "a"]
    assert rig.queue.take(rig.ticket()) is None
    rig.queue.see_peers([])  # the other worker went idle
    assert [rig.take() for _ in range(2)] == ["a", "a"]
    assert rig.queue.take(rig.ticket()) is None


async def test_no_more_run_at_a_replica_than_it_has_places_whatever_was_measured_on_a_larger_one() -> None:
    rig = Rig()
    rig.queue.update(entry(replica("a", 2, "v"), variants=(measured(100.0, most=32),)))
    assert [rig.take() for _ in range(2)] == ["a", "a"]
    assert rig.queue.take(rig.ticket()) is None


async def test_a_request_goes_only_to_a_variant_that_can_serve_it() -> None:
    rig = Rig(replica("a", 1, "x"), replica("b", None, "y"))
    ticket = rig.ticket()
    ticket.unable = frozenset({"y"})
    found = rig.queue.take(ticket)
    assert found is not None
    assert found.id == "a"
    waiting = rig.ticket()
    waiting.unable = frozenset({"y"})
    assert rig.queue.take(waiting) is None
    assert rig.take() == "b"


async def test_a_request_that_failed_at_the_better_variant_tries_the_other_one() -> None:
    better = VariantEntry(id="x", engine="echo", engine_model="d", speeds=((1, 100.0),))
    other = VariantEntry(id="y", engine="echo", engine_model="d", speeds=((1, 10.0),))
    rig = Rig()
    rig.queue.update(entry(replica("a", 2, "x"), replica("b", 1, "y"), variants=(better, other)))
    assert rig.take() == "a"
    failed = rig.ticket()
    failed.excluded = frozenset({"a"})
    found = rig.queue.take(failed)
    assert found is not None
    assert found.id == "b"
    # Full as that one is now, where it failed is better than nowhere.
    again = rig.ticket()
    again.excluded = frozenset({"a"})
    assert rig.queue.take(again) is not None


async def test_the_variant_that_serves_follows_the_load() -> None:
    one = VariantEntry(id="one", engine="echo", engine_model="d", speeds=((1, 100.0), (8, 110.0)))
    many = VariantEntry(id="many", engine="echo", engine_model="d", speeds=((1, 50.0), (8, 300.0)))
    rig = Rig()
    rig.queue.update(entry(replica("a", None, "one"), replica("b", None, "many"), variants=(one, many)))
    assert rig.take() == "a"
    assert rig.take() == "a"
    rig.clock.advance(6)
    assert [rig.take() for _ in range(4)][-1] == "b"


async def test_a_request_alone_goes_by_its_own_prompt_and_holds_nobody_who_comes_next() -> None:
    writes = VariantEntry(
        id="writes",
        engine="echo",
        engine_model="d",
        speeds=((1, 100.0), (8, 110.0)),
        prefill_tokens_per_s=400.0,
    )
    reads = VariantEntry(
        id="reads",
        engine="echo",
        engine_model="d",
        speeds=((1, 90.0), (8, 300.0)),
        prefill_tokens_per_s=3000.0,
    )
    rig = Rig()
    rig.queue.update(
        entry(replica("a", None, "writes"), replica("b", None, "reads"), variants=(writes, reads))
    )
    given = []
    for prompt_tokens in (10, 400, 10, 400):
        ticket = rig.ticket(tokens=100, prompt_tokens=prompt_tokens)
        found = rig.queue.take(ticket)
        assert found is not None
        given.append(found.id)
        rig.clock.advance(1)
        rig.queue.release(found.id, ticket)
    assert given == ["a", "b", "a", "b"]
    # A burst: the first one is alone, those behind it are many.
    assert [rig.take(tokens=100, prompt_tokens=10) for _ in range(6)] == ["a", *["b"] * 5]
    # While there was more than one lately, one at a time is no reason to change engines.
    assert rig.take(tokens=100, prompt_tokens=10) == "b"


async def test_the_first_of_a_burst_goes_where_the_bursts_before_it_went() -> None:
    one = VariantEntry(id="one", engine="echo", engine_model="d", speeds=((1, 100.0), (8, 110.0)))
    many = VariantEntry(id="many", engine="echo", engine_model="d", speeds=((1, 50.0), (8, 300.0)))
    rig = Rig()
    rig.queue.update(entry(replica("a", None, "one"), replica("b", None, "many"), variants=(one, many)))

    def burst(size: int) -> list[str]:
        rig.clock.advance(60)
        tickets = [rig.ticket(tokens=100) for _ in range(size)]
        given = []
        for ticket in tickets:
            found = rig.queue.take(ticket)
            assert found is not None
            given.append(found.id)
        for replica_id, ticket in zip(given, tickets, strict=True):
            rig.queue.release(replica_id, ticket)
        return given

    firsts = [burst(8)[0] for _ in range(4)]
    assert firsts == ["a", "a", "b", "b"]
    # Whoever stays alone gets the variant for one back.
    assert [burst(1)[0] for _ in range(4)][-1] == "a"


async def test_static_batching_starts_gangs_and_waits_for_their_last() -> None:
    rig = Rig(replica("a", 2), order="gang")
    first, second = await rig.waiting(), await rig.waiting()
    assert (await first[1]).id == (await second[1]).id == "a"
    third, fourth = await rig.waiting(), await rig.waiting()
    rig.queue.release("a", first[0])
    await asyncio.sleep(0)
    assert not third[1].done()
    rig.queue.release("a", second[0])
    assert (await third[1]).id == (await fourth[1]).id == "a"
