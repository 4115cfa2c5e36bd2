"""When the companion is there: it waits for a lasting load, stays for minutes, never flaps."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.scheduling.companions import (
    MADE_ROOM_S,
    REST_S,
    Edges,
    History,
    Sight,
    decide,
    down_after_s,
    is_small,
    left,
)
from outpace.scheduling.variants import Option, cross_over, promised

SIGHT = Sight(users=0, edges=Edges(up=8, down=6), is_possible=True, is_main_ready=True, start_s=5.0)
ALONE = Edges(up=1, down=1)
# The main variant has answered for long.
LATER = History(main_since_s=-1000.0)
TICK_S = 0.25


def after(history: History, sight: Sight, from_s: float, for_s: float) -> tuple[History, float | None]:
    """What is remembered after `for_s` of the same sight, and when the count changed first."""
    changed_s = None
    for number in range(round(for_s / TICK_S)):
        now_s = from_s + number * TICK_S
        fresh = decide(history, sight, now_s).history
        if fresh.is_up != history.is_up and changed_s is None:
            changed_s = now_s - from_s
        history = fresh
    return history, changed_s


def seen(users: int, **changes: object) -> Sight:
    return msgspec.structs.replace(SIGHT, users=users, **changes)


def test_a_lasting_load_brings_it_and_a_lasting_lull_ends_it() -> None:
    history, came_s = after(History(), seen(8), 0.0, 10.0)
    assert history.is_up
    assert came_s is not None
    # The smoothed load needs three seconds to come near to eight.
    assert 6.0 <= came_s <= 7.5
    history, left_s = after(history, seen(1), 10.0, 300.0)
    assert not history.is_up
    assert left_s is not None
    assert 180.0 <= left_s <= 185.0


def test_a_burst_or_a_load_below_the_cross_over_does_not_bring_it() -> None:
    burst, _ = after(History(), seen(12), 0.0, 2.0)
    assert not after(burst, seen(1), 2.0, 60.0)[0].is_up
    assert not after(History(), seen(7), 0.0, 600.0)[0].is_up


def test_one_user_who_asks_again_and_again_brings_it_but_rare_requests_do_not() -> None:
    """Requests of 2 s, for which the companion is the faster one already at one user, with pauses."""

    def asks(pause_s: float, for_s: float) -> bool:
        history, now_s = LATER, 0.0
        while now_s < for_s and not history.is_up:
            history, _ = after(history, seen(1, edges=ALONE), now_s, 2.0)
            if not history.is_up:
                history, _ = after(history, seen(0, edges=ALONE), now_s + 2.0, pause_s)
            now_s += 2.0 + pause_s
        return history.is_up

    assert asks(pause_s=5.0, for_s=120.0)
    assert not asks(pause_s=120.0, for_s=7200.0)


def test_a_load_far_above_the_cross_over_brings_it_sooner() -> None:
    _, far_s = after(History(), seen(64), 0.0, 10.0)
    _, near_s = after(History(), seen(16), 0.0, 10.0)
    assert far_s is not None
    assert near_s is not None
    assert 1.0 <= far_s <= 1.5
    assert far_s + 1.0 <= near_s <= 4.0


def test_one_that_is_faster_at_every_load_comes_with_the_main_variant_and_stays_for_long() -> None:
    loading, came_s = after(History(), seen(0, edges=ALONE, is_main_ready=False), 0.0, 10.0)
    assert came_s is None
    answering, came_s = after(loading, seen(1, edges=ALONE), 10.0, 2.0)
    assert came_s is None
    history, came_s = after(answering, seen(0, edges=ALONE), 12.0, 1.0)
    assert came_s == 0.0
    # It leaves at last where nobody asks, and does not come back by itself.
    history, left_s = after(history, seen(0, edges=ALONE), 13.0, 3_000.0)
    assert left_s is not None
    assert left_s >= 890.0
    assert not history.is_up
    # Nor for what is measured only while the main variant has answered for long.
    assert not after(LATER, seen(0, edges=ALONE), 0.0, 100.0)[0].is_up
    # With a cross-over it waits for the load.
    assert not after(History(), seen(0), 0.0, 100.0)[0].is_up


def test_between_the_two_edges_everything_stays_as_it_is() -> None:
    up, _ = after(History(), seen(8), 0.0, 20.0)
    assert up.is_up
    assert after(up, seen(6), 20.0, 1200.0)[0].is_up


@pytest.mark.parametrize(
    "sight", [seen(32, edges=None), seen(32, is_possible=False), seen(32, is_main_ready=False)]
)
def test_without_figures_a_companion_or_a_main_variant_it_does_not_come(sight: Sight) -> None:
    assert not after(History(), sight, 0.0, 600.0)[0].is_up


def test_it_leaves_at_once_with_the_main_variant_but_outlives_its_crash() -> None:
    up = History(is_up=True)
    assert not decide(up, seen(32, is_possible=False), 1.0).history.is_up
    assert decide(up, seen(32, is_main_ready=False), 1.0).history.is_up


def test_one_that_made_room_rests_for_a_while() -> None:
    history = left(History(is_up=True), 0.0, MADE_ROOM_S)
    history, came_s = after(history, seen(32), 0.0, 400.0)
    assert came_s is not None
    assert came_s >= MADE_ROOM_S


def test_a_small_one_stays_for_the_next_burst() -> None:
    _, left_s = after(History(is_up=True), seen(1, is_small=True), 0.0, 1_000.0)
    assert left_s is not None
    assert left_s >= 890.0


@pytest.mark.parametrize(
    ("replica_bytes", "memory_bytes", "small"),
    [(10, 100, True), (11, 100, False), (0, 100, False), (10, None, False)],
)
def test_small_is_what_is_known_to_be_a_tenth_of_the_memory_at_most(
    replica_bytes: int, memory_bytes: int | None, small: bool
) -> None:
    assert is_small(replica_bytes, memory_bytes) is small


def test_a_slow_start_makes_it_stay_longer() -> None:
    assert down_after_s(1.0) == 180.0
    assert down_after_s(20.0) == 400.0
    assert down_after_s(1000.0) == 900.0


@given(st.lists(st.tuples(st.integers(0, 64), st.integers(1, 400)), min_size=1, max_size=40))
def test_no_load_makes_it_flap(loads: list[tuple[int, int]]) -> None:
    """Whatever the load does, a companion that came stays for minutes, and starts are bounded by that."""
    history, now_s, starts, ends = History(), 0.0, [], []
    for users, ticks in loads:
        for _ in range(ticks):
            fresh = decide(history, seen(users), now_s).history
            if fresh.is_up and not history.is_up:
                starts.append(now_s)
            if history.is_up and not fresh.is_up:
                ends.append(now_s)
            history, now_s = fresh, now_s + 1.0
    assert all(ended - started >= 180.0 for started, ended in zip(starts, ends, strict=False))
    assert all(later - earlier >= 180.0 + REST_S for earlier, later in pairwise(starts))


@given(
    st.lists(
        st.tuples(st.integers(0, 64), st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=400
    )
)
def test_starts_are_bounded_whatever_happens(sights: list[tuple[int, bool, bool, bool]]) -> None:
    history, starts = History(), []
    for number, (users, is_possible, is_main_ready, is_measured) in enumerate(sights):
        sight = seen(
            users,
            is_possible=is_possible,
            is_main_ready=is_main_ready,
            edges=SIGHT.edges if is_measured else None,
        )
        fresh = decide(history, sight, float(number)).history
        if fresh.is_up and not history.is_up:
            starts.append(number)
        history = fresh
    assert all(later - earlier >= REST_S for earlier, later in pairwise(starts))


# -- where two variants are equally fast

SPEEDS = st.lists(
    st.tuples(st.integers(1, 64), st.floats(1, 1000)), min_size=1, max_size=6, unique_by=lambda p: p[0]
)


@given(SPEEDS, SPEEDS, st.integers(1, 3))
def test_from_the_cross_over_on_the_other_is_faster(
    main: list[tuple[int, float]], other: list[tuple[int, float]], replicas: int
) -> None:
    one, two = Option("one", replicas, sorted(main)), Option("two", 1, sorted(other))
    users = cross_over(one, two)
    top = min(replicas * one.speeds[-1][0], two.speeds[-1][0])
    if users is None:
        assert promised(two, top) < 1.1 * promised(one, top)
        return
    assert all(promised(two, load) >= 1.1 * promised(one, load) for load in range(users, top + 1))
    assert users == 1 or promised(two, users - 1) < 1.1 * promised(one, users - 1)


def test_the_cross_over_of_what_was_measured_here() -> None:
    llama = Option("llamacpp", 1, ((1, 107.0), (8, 165.0), (16, 156.0), (32, 169.0)))
    openvino = Option("openvino", 1, ((1, 60.0), (8, 180.0), (16, 230.0), (32, 290.0)))
    assert cross_over(llama, openvino) == 9
    assert cross_over(openvino, llama) is None
    assert cross_over(llama, Option("new", 1, ())) is None
    # A sweep that ended early says nothing about many users.
    assert cross_over(Option("llamacpp", 1, ((1, 107.0),)), openvino) is None
