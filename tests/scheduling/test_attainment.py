"""What is predicted for n replicas, against cases worked out by hand and laws that must hold."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.scheduling.attainment import (
    Capacity,
    Goal,
    Traffic,
    attainment,
    most_requests_per_s,
    replicas_by_places,
    replicas_for,
    replicas_for_backlog,
    speed_at,
)

SMALL = Capacity(places=8, speeds=((1, 100.0), (8, 170.0)), prefill_tokens_per_s=1_000.0)


def _traffic(requests_per_s: float, input_tokens: float = 100.0, output_tokens: float = 50.0) -> Traffic:
    return Traffic(requests_per_s=requests_per_s, input_tokens=input_tokens, output_tokens=output_tokens)


def test_speeds_between_and_beyond_the_measured_loads() -> None:
    assert [speed_at(SMALL, users) for users in (0.5, 1, 4.5, 8, 20)] == [100.0, 100.0, 135.0, 170.0, 170.0]


def test_one_place_is_the_textbook_queue() -> None:
    # M/M/1 with one request per second and a load of 0.5: a wait over t has the probability 0.5 · exp(-0.5 t).
    single = Capacity(places=1, speeds=((1, 50.0),))
    share = attainment(1, single, _traffic(0.5), Goal(ttft_s=2.0))
    assert share == pytest.approx(1 - 0.5 * math.exp(-1.0))
    # Two places at a load of 1 Erlang, M/M/2: a third finds both taken.
    double = Capacity(places=2, speeds=((1, 50.0), (2, 100.0)))
    assert 1 - attainment(1, double, _traffic(1.0), Goal(ttft_s=1e-9)) == pytest.approx(1 / 3)
    # Shared speed, M/M/1 again: only who finds nobody has gaps of 10 ms, half of all at a load of 0.5.
    shared = Capacity(places=4, speeds=((1, 100.0), (4, 100.0)))
    assert attainment(1, shared, _traffic(1.0), Goal(itl_s=0.01)) == pytest.approx(0.5)


def test_what_one_replica_keeps_up_with() -> None:
    # 50 tokens at 170/s and 100 prompt tokens at 1000/s: 0.394 s of the device for each request.
    assert most_requests_per_s(SMALL, _traffic(1.0)) == pytest.approx(1 / (50 / 170 + 0.1))
    assert attainment(1, SMALL, _traffic(2.6), Goal()) == 0.0
    assert attainment(1, SMALL, _traffic(0.5), Goal()) > 0.99
    assert attainment(1, SMALL, _traffic(0.0), Goal()) == 1.0
    # A prompt that takes longer than the objective is missed on any number of replicas.
    assert attainment(9, SMALL, _traffic(0.1, input_tokens=2_000.0), Goal()) == 0.0


def test_a_short_gap_between_tokens_needs_more_replicas() -> None:
    steady = _traffic(2.0)
    loose, tight = Goal(ttft_s=2.0), Goal(ttft_s=2.0, itl_s=0.015)
    assert replicas_for(SMALL, steady, tight, 16) > replicas_for(SMALL, steady, loose, 16)
    # A gap that not even an idle replica keeps.
    assert attainment(16, SMALL, steady, Goal(itl_s=0.001)) == 0.0


def test_a_backlog_needs_enough_places_in_time() -> None:
    traffic = _traffic(1.0)
    assert replicas_for_backlog(SMALL, traffic, Goal(), 5, 16) == 1
    assert replicas_for_backlog(SMALL, traffic, Goal(), 31, 16) == 4
    assert replicas_for_backlog(SMALL, traffic, Goal(), 10_000, 16) == 16
    assert [replicas_by_places(8, count, 4) for count in (0, 6, 7, 13, 99)] == [1, 1, 2, 3, 4]


_RATES = st.floats(0.01, 40.0)
_LENGTHS = st.floats(1.0, 2_000.0)
_CAPACITIES = st.builds(
    Capacity,
    places=st.integers(1, 32),
    speeds=st.lists(st.floats(5.0, 900.0), min_size=1, max_size=4).map(
        lambda speeds: tuple((2**index, speed) for index, speed in enumerate(sorted(speeds)))
    ),
    prefill_tokens_per_s=st.none() | st.floats(50.0, 9_000.0),
)
_GOALS = st.builds(
    Goal, ttft_s=st.floats(0.05, 20.0), itl_s=st.none() | st.floats(0.002, 1.0), share=st.floats(0.5, 0.999)
)


@given(_CAPACITIES, _RATES, _LENGTHS, _LENGTHS, _GOALS, st.integers(1, 63))
def test_a_share_is_a_share_and_more_replicas_or_less_load_never_hurt(
    capacity: Capacity, rate: float, input_tokens: float, output_tokens: float, goal: Goal, count: int
) -> None:
    traffic = _traffic(rate, input_tokens, output_tokens)
    share = attainment(count, capacity, traffic, goal)
    assert -1e-9 <= share <= 1.0 + 1e-9
    assert attainment(count + 1, capacity, traffic, goal) >= share - 1e-6
    assert attainment(count, capacity, _traffic(rate / 2, input_tokens, output_tokens), goal) >= share - 1e-6
    fewest = replicas_for(capacity, traffic, goal, 64)
    assert fewest == 64 or attainment(fewest, capacity, traffic, goal) >= goal.share
