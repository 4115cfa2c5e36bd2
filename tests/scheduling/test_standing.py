"""Cost against waits: known cases by hand, and what must hold for any arrivals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.scheduling.standing import Step, curve

NOTHING = Step(name="nothing", wake_s=2.0, share=0.0)
IMPORTED = Step(name="imported", wake_s=1.0, share=0.1)


def test_two_far_arrivals_are_two_starts_and_both_wait() -> None:
    points = curve([0.0, 1000.0], 5.0, [NOTHING], [10.0])
    asleep = next(point for point in points if point.step == "nothing")
    assert (asleep.p50_wait_s, asleep.p95_wait_s) == (2.0, 2.0)
    # Awake 2 + 5 + 10 s, and 2 + 3 s until the record ends 1005 s after its begin.
    assert asleep.replica_hours_per_day == pytest.approx(24 * (17 + 5) / 1005)
    assert asleep.starts_per_day == pytest.approx(2 * 86_400 / 1005)


def test_an_arrival_while_it_starts_waits_for_the_rest_of_the_start() -> None:
    points = curve([0.0, 0.5], 5.0, [NOTHING], [10.0])
    asleep = next(point for point in points if point.step == "nothing")
    assert (asleep.p50_wait_s, asleep.p95_wait_s) == (2.0, 2.0)
    assert asleep.starts_per_day == pytest.approx(86_400 / 5.5)


def test_what_costs_more_and_waits_as_long_is_not_worthwhile() -> None:
    dear = Step(name="dear", wake_s=2.0, share=0.5)
    points = curve([0.0, 1000.0], 5.0, [NOTHING, IMPORTED, dear], [10.0])
    assert {point.step: point.is_worthwhile for point in points} == {
        "nothing": True,
        "imported": True,
        "dear": False,
        "a replica that stays": True,
    }


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=50).map(sorted),
    st.floats(0.1, 100),
    st.floats(0.1, 1e4),
)
def test_longer_idle_times_cost_more_and_never_start_more_often(
    arrivals_s: list[float], service_s: float, idle_s: float
) -> None:
    points = curve(arrivals_s, service_s, [NOTHING], [idle_s, 2 * idle_s])
    short, long = (next(point for point in points if point.idle_s == idle) for idle in (idle_s, 2 * idle_s))
    assert short.replica_hours_per_day <= long.replica_hours_per_day + 1e-9
    assert short.starts_per_day >= long.starts_per_day
    assert all(0 <= point.p50_wait_s <= point.p95_wait_s <= NOTHING.wake_s for point in points)
    assert all(0 < point.replica_hours_per_day <= 24 + 1e-9 for point in points)
