"""Orders of waiting: nobody is lost, nobody starves, shares are fair within one request."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.scheduling.lines import PRIORITY_WEIGHTS, FairLine, FirstComeLine, line
from outpace.scheduling.tickets import Priority, Ticket
from outpace.values.errors import InvalidInput


def ticket(key: str, tokens: int = 1, priority: Priority = "interactive") -> Ticket:
    return Ticket(key, arrived_s=0, deadline_s=1, output_tokens=tokens, priority=priority)


def always(_: Ticket) -> bool:
    return True


KEYS = st.sampled_from("abcd")
REQUESTS = st.lists(
    st.tuples(KEYS, st.integers(1, 1_000), st.sampled_from(["interactive", "batch"])), max_size=60
)


@given(REQUESTS, st.sampled_from(["fair", "fifo"]))
def test_everybody_is_served_once_and_each_key_in_order(
    requests: list[tuple[str, int, Priority]], order: str
) -> None:
    waiting = line(order)
    tickets = [ticket(*request) for request in requests]
    for each in tickets:
        waiting.add(each)
    assert set(waiting) == set(tickets)
    served = [waiting.next(always) for _ in tickets]
    assert waiting.next(always) is None
    assert len(waiting) == 0
    assert Counter(served) == Counter(tickets)
    for key in "abcd":
        for priority in PRIORITY_WEIGHTS:
            own = [each for each in tickets if (each.key, each.priority) == (key, priority)]
            assert [each for each in served if each in own] == own


@given(
    st.lists(st.tuples(st.integers(1, 1_000), st.integers(1, 1_000)), min_size=20, max_size=40),
    st.data(),
)
def test_two_keys_with_work_get_the_same_tokens_within_their_largest_requests(
    sizes: list[tuple[int, int]], data: st.DataObject
) -> None:
    waiting = FairLine()
    for mine, theirs in sizes:
        waiting.add(ticket("a", mine))
        waiting.add(ticket("b", theirs))
    most = max(mine for mine, _ in sizes) + max(theirs for _, theirs in sizes)
    left, had = Counter({"a": len(sizes), "b": len(sizes)}), Counter({"a": 0, "b": 0})
    while min(left.values()) > 0:
        served = waiting.next(always)
        assert served is not None
        # What the engine counts in the end may be anything up to what was asked for.
        used = data.draw(st.integers(0, served.tokens))
        waiting.correct(served, used - served.tokens)
        left[served.key] -= 1
        had[served.key] += used
        assert abs(had["a"] - had["b"]) <= most


@given(st.integers(1, 200), st.integers(1, 500))
def test_a_key_that_was_away_is_next_but_has_no_credit(rounds: int, size: int) -> None:
    waiting = FairLine()
    for _ in range(rounds):
        waiting.add(ticket("busy", size))
        assert waiting.next(always) is not None
    for _ in range(3):
        waiting.add(ticket("busy", size))
        waiting.add(ticket("back", size))
    served = [waiting.next(always) for _ in range(6)]
    turns = [each.key for each in served if each is not None]
    assert turns.index("back") <= 1
    assert Counter(turns[:4]) == {"busy": 2, "back": 2}


def test_batch_work_gets_a_tenth_and_never_nothing() -> None:
    waiting = FairLine()
    for _ in range(100):
        waiting.add(ticket("a", 10))
        waiting.add(ticket("b", 10, "batch"))
    served = [waiting.next(always) for _ in range(100)]
    assert Counter(each.priority for each in served if each) == {"interactive": 90, "batch": 10}


def test_who_may_not_go_keeps_nobody_back() -> None:
    waiting = FairLine()
    stuck, other, batch = ticket("a"), ticket("b"), ticket("c", 1, "batch")
    for each in (stuck, other, batch):
        waiting.add(each)
    assert [waiting.next(lambda each: each is not stuck) for _ in range(3)] == [other, batch, None]
    assert waiting.next(always) is stuck


def test_what_went_without_waiting_counts_too() -> None:
    waiting = FairLine()
    waiting.passed(ticket("a", 1_000))
    waiting.add(ticket("a", 1))
    waiting.add(ticket("b", 1))
    served = [waiting.next(always) for _ in range(2)]
    assert [each.key for each in served if each] == ["b", "a"]


@given(REQUESTS)
def test_leaving_leaves_nothing_behind(requests: list[tuple[str, int, Priority]]) -> None:
    waiting = FairLine()
    tickets = [ticket(*request) for request in requests]
    for each in tickets:
        waiting.add(each)
    for each in [*tickets, *tickets]:
        waiting.remove(each)
    assert len(waiting) == 0
    assert waiting.next(always) is None
    assert not any(len(shares) for shares in waiting._keys.values())


def test_first_come_is_strict() -> None:
    waiting = FirstComeLine()
    first, second = ticket("a"), ticket("b")
    waiting.add(first)
    waiting.add(second)
    assert waiting.next(lambda each: each is second) is None
    assert waiting.next(always) is first


def test_an_unknown_order_lists_the_known() -> None:
    with pytest.raises(InvalidInput, match="fair, fifo"):
        line("lifo")
