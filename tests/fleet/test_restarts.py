"""Back-off and breaker as tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.fleet.restarts import NO_FAILURES, Failures, RestartPolicy, after_failure, is_open, next_start_s

POLICY = RestartPolicy(first_wait_s=1, factor=2, longest_wait_s=5, healthy_after_s=30, opens_after=5)


@pytest.mark.parametrize(
    ("in_a_row", "wait_s"), [(0, 0.0), (1, 101.0), (2, 102.0), (3, 104.0), (4, 105.0), (5, None), (9, None)]
)
def test_waits_grow_to_a_cap_and_then_the_breaker_opens(in_a_row: int, wait_s: float | None) -> None:
    assert next_start_s(Failures(in_a_row, last_s=100.0), POLICY) == wait_s


def test_a_healthy_life_forgives_earlier_failures() -> None:
    failures = Failures(in_a_row=4, last_s=0.0)
    assert after_failure(failures, POLICY, lived_s=31, now_s=50) == Failures(1, 50)
    assert after_failure(failures, POLICY, lived_s=29, now_s=50) == Failures(5, 50)


@given(st.lists(st.floats(0, 29), min_size=1, max_size=200))
def test_with_a_retry_time_there_is_always_a_next_start_after_the_last_failure(lives_s: list[float]) -> None:
    policy = RestartPolicy(retry_open_s=60)
    failures, now_s = NO_FAILURES, 0.0
    for lived_s in lives_s:
        now_s += lived_s
        failures = after_failure(failures, policy, lived_s, now_s)
    next_s = next_start_s(failures, policy)
    assert next_s is not None
    assert now_s < next_s <= now_s + 60
    assert is_open(failures, policy) == (len(lives_s) >= 5)
