"""Prompts that a replica reads at once: bounded, never none, and never forgotten."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st
from tests.scheduling.test_queue import Rig, entry, replica

from outpace.scheduling.prefill import Prefills, budget_tokens
from outpace.scheduling.routing import Homes, ReplicaLoad, pick
from outpace.scheduling.tickets import Ticket
from outpace.values.snapshot import VariantEntry


def reading(tokens: int, *, tells: bool = True, key: str = "k") -> Ticket:
    return Ticket(key, arrived_s=0.0, deadline_s=60.0, prompt_tokens=tokens, tells_first_token=tells)


def prefills(tokens_per_s: float = 200.0) -> Prefills:
    found = Prefills()
    found.tokens_per_s, found.budget_tokens = tokens_per_s, budget_tokens(tokens_per_s)
    return found


def variant(tokens_per_s: float | None) -> VariantEntry:
    return VariantEntry(id="v", engine="echo", engine_model="d", prefill_tokens_per_s=tokens_per_s)


def test_nothing_measured_means_no_bound_and_a_fast_device_may_read_ahead() -> None:
    assert budget_tokens(None) is None
    assert budget_tokens(240.0) == 512
    assert budget_tokens(240.0, num_workers=2) == 256
    assert budget_tokens(20_000.0) == 10_000


def test_a_prompt_beyond_the_bound_is_read_alone() -> None:
    found = prefills()
    long, short = reading(3_000), reading(10)
    assert found.has_room(long, 0.0)
    found.begin(long, 0.0)
    assert not found.has_room(short, 1e6)
    assert found.end(long)
    assert not found.end(long)
    assert found.has_room(short, 0.0)


def test_what_tells_no_first_token_counts_for_as_long_as_it_should_take() -> None:
    found = prefills(200.0)
    found.begin(reading(400, tells=False), 10.0)
    assert not found.has_room(reading(400), 12.9)
    assert found.wait_s(12.0) == 1.0
    assert found.has_room(reading(400), 13.0)
    assert found.wait_s(13.0) is None


def test_the_key_that_reads_most_holds_back_no_other_and_others_share_the_bound() -> None:
    found = prefills()
    found.begin(reading(3_000, key="flood"), 0.0)
    assert found.has_room(reading(500, key="small"), 0.0)
    assert not found.has_room(reading(500, key="flood"), 0.0)
    assert not found.has_room(reading(600, key="small"), 0.0)
    found.begin(reading(300, key="small"), 0.0)
    assert not found.has_room(reading(300, key="third"), 0.0)
    assert found.has_room(reading(200, key="third"), 0.0)
    assert not found.has_room(reading(10, key="small"), 0.0)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 2_000), st.sampled_from("abc")), max_size=60))
def test_beside_one_key_never_more_than_the_bound_is_read(steps: list[tuple[bool, int, str]]) -> None:
    found, inside = prefills(), list[Ticket]()
    for begins, tokens, key in steps:
        ticket = reading(tokens, key=key)
        if begins and found.has_room(ticket, 0.0):
            found.begin(ticket, 0.0)
            inside.append(ticket)
        elif inside:
            assert found.end(inside.pop(0))
        of_key = [sum(each.prompt_tokens for each in inside if each.key == name) for name in "abc"]
        longest = max((each.prompt_tokens for each in inside), default=0)
        assert sum(of_key) <= max(512, longest) + 512


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 2_000)), max_size=60))
def test_of_one_key_never_more_than_the_bound_is_read_and_somebody_always_may(
    steps: list[tuple[bool, int]],
) -> None:
    found, inside = prefills(), list[Ticket]()
    for begins, tokens in steps:
        ticket = reading(tokens)
        if begins and found.has_room(ticket, 0.0):
            found.begin(ticket, 0.0)
            inside.append(ticket)
        elif inside:
            assert found.end(inside.pop(0))
        total = sum(each.prompt_tokens for each in inside)
        assert total <= 512 or len(inside) == 1
        assert inside or found.has_room(ticket, 0.0)


def test_a_prefix_waits_for_its_home_and_others_go_where_nobody_reads() -> None:
    replicas, homes = [ReplicaLoad(replica(name, None), None) for name in "ab"], Homes()
    for each in replicas:
        each.prefills.budget_tokens = 512
    mine = reading(400)
    mine.affinity = b"12345678"
    home = pick(replicas, mine, 0.0, homes)
    assert home is not None
    home.prefills.begin(reading(500), 0.0)
    assert pick(replicas, mine, 0.0, homes) is None
    other = pick(replicas, reading(400), 0.0, homes)
    assert other is not None
    assert other is not home


async def test_the_next_prompt_goes_at_the_first_token_and_another_key_goes_first() -> None:
    rig = Rig()
    rig.queue.update(entry(replica("a", 8, "v"), variants=(variant(200.0),)))
    first = rig.ticket("flood", prompt_tokens=500)
    assert rig.queue.take(first) is not None
    await rig.waiting("flood", prompt_tokens=600)
    small, _ = await rig.waiting("small", prompt_tokens=600)
    assert rig.given == []
    rig.queue.wrote("a", first)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert rig.given == ["small"]
    rig.queue.release("a", small)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert rig.given == ["small", "flood"]


async def test_a_key_of_which_nothing_is_read_begins_beside_a_flood() -> None:
    rig = Rig()
    rig.queue.update(entry(replica("a", 8, "v"), variants=(variant(200.0),)))
    assert rig.take("flood", prompt_tokens=3_000) == "a"
    await rig.waiting("flood", prompt_tokens=500)
    await rig.waiting("small", prompt_tokens=500)
    await asyncio.sleep(0)
    assert rig.given == ["small"]


async def test_without_a_measured_rate_nobody_waits() -> None:
    rig = Rig()
    rig.queue.update(entry(replica("a", 8, "v"), variants=(variant(None),)))
    assert all(rig.take("flood", prompt_tokens=5_000) == "a" for _ in range(8))
