"""How many replicas there are: to and from zero, under load, and never more starts than allowed."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.scheduling.arrivals import Arrivals, Lengths
from outpace.scheduling.attainment import Capacity, Goal, Traffic
from outpace.scheduling.autoscale import HOUR_S, Bounds, Decision, History, Pressure, decide, settle_s

SLEEPS = Bounds(least=0, most=2, idle_s=60.0)
GROWS = Bounds(least=1, most=8)
PROFILED = Capacity(places=8, speeds=((1, 100.0), (8, 170.0)), prefill_tokens_per_s=1_000.0)
UNKNOWN = Capacity(places=8)


def _load(requests_per_s: float, waiting: int = 0, running: int = 0) -> Pressure:
    traffic = Traffic(requests_per_s=requests_per_s, input_tokens=100.0, output_tokens=50.0)
    return Pressure(waiting=waiting, running=running, traffic=traffic)


def _decide(
    history: History,
    bounds: Bounds,
    pressure: Pressure,
    now_s: float = 0.0,
    capacity: Capacity = PROFILED,
    num_ready: int | None = None,
) -> Decision:
    ready = history.count if num_ready is None else num_ready
    return decide(history, bounds, pressure, capacity, Goal(), num_ready=ready, start_s=1.0, now_s=now_s)


@pytest.mark.parametrize(
    ("count", "bounds", "pressure", "expected"),
    [
        (0, SLEEPS, Pressure(), 0),
        (0, SLEEPS, Pressure(waiting=1), 1),
        # One start for any number of callers.
        (0, SLEEPS, Pressure(waiting=1_000), 1),
        (0, SLEEPS, Pressure(running=1), 0),
        (1, SLEEPS, Pressure(idle_for_s=59.9), 1),
        (1, SLEEPS, Pressure(idle_for_s=60.0), 0),
        (0, Bounds(least=1), Pressure(idle_for_s=9_999.0), 1),
        (1, Bounds(least=1), Pressure(idle_for_s=9_999.0), 1),
        (5, Bounds(least=1, most=3), Pressure(running=1), 3),
    ],
)
def test_from_and_to_zero(count: int, bounds: Bounds, pressure: Pressure, expected: int) -> None:
    assert _decide(History(count=count), bounds, pressure).history.count == expected


def test_the_first_start_decides_about_more() -> None:
    crowd = _load(9.0, waiting=1_000)
    assert _decide(History(count=1), SLEEPS, crowd, num_ready=0).history.count == 1
    assert _decide(History(count=1), SLEEPS, crowd, num_ready=1).history.count == 2


def test_up_at_once_with_the_reason() -> None:
    decision = _decide(History(count=1), GROWS, _load(3.5))
    assert decision.history.count == 2
    assert decision.reason.startswith("3.5 requests/s of 100 + 50 tokens: ")
    assert decision.reason.endswith("% predicted within the objective on 2, 0 % on 1")
    assert _decide(History(count=1), GROWS, _load(0.1, waiting=60)).history.count > 4


def test_without_a_profile_places_count() -> None:
    assert _decide(History(count=1), GROWS, _load(0.0, 4, 8), capacity=UNKNOWN).history.count == 2
    assert "not profiled yet" in _decide(History(count=1), GROWS, _load(0.0, 4, 8), capacity=UNKNOWN).reason


def test_down_only_after_a_while_and_not_around_a_threshold() -> None:
    history = _decide(History(count=1), GROWS, _load(3.5)).history
    # A load that one replica nearly serves keeps two: 1.2 times of it would need them.
    for second in range(600):
        history = _decide(history, GROWS, _load(2.2), float(second)).history
        assert history.count == 2
    for second in range(600, 599 + int(settle_s(1.0))):
        history = _decide(history, GROWS, _load(0.2), float(second)).history
        assert history.count == 2
    assert _decide(history, GROWS, _load(0.2), 600 + settle_s(1.0)).history.count == 1


def test_how_long_a_need_is_remembered() -> None:
    assert [settle_s(start_s) for start_s in (0.1, 1.0, 5.0, 600.0)] == [15.0, 20.0, 100.0, 300.0]


@given(
    st.lists(st.tuples(st.floats(0.25, 200.0), st.floats(0.0, 30.0), st.integers(0, 60)), max_size=60),
    st.integers(0, 2),
    st.integers(1, 12),
    st.booleans(),
)
def test_under_any_load_it_stays_within_bounds_and_starts(
    steps: list[tuple[float, float, int]], least: int, starts_per_hour: int, is_profiled: bool
) -> None:
    bounds = Bounds(least=least, most=6, idle_s=30.0, starts_per_hour=starts_per_hour)
    history, now_s, idle_for_s = History(count=least), 0.0, 0.0
    started: list[float] = []
    for wait_s, rate, waiting in steps:
        now_s += wait_s
        idle_for_s = 0.0 if waiting else idle_for_s + wait_s
        traffic = Traffic(requests_per_s=rate, input_tokens=100.0, output_tokens=50.0)
        pressure = Pressure(waiting=waiting, idle_for_s=idle_for_s, traffic=traffic)
        capacity = PROFILED if is_profiled else UNKNOWN
        before, history = history, _decide(history, bounds, pressure, now_s, capacity).history
        assert bounds.least <= history.count <= bounds.most
        started += [now_s] * max(0, history.count - before.count)
        assert sum(now_s - at_s < HOUR_S for at_s in started) <= max(starts_per_hour, least)
        # Whoever waits for a sleeping model is served.
        assert history.count > 0 or waiting == 0


def test_a_flapping_load_keeps_its_replicas_when_its_starts_are_used_up() -> None:
    bounds = Bounds(least=0, most=1, idle_s=10.0, starts_per_hour=5)
    history, counts = History(count=0), []
    for cycle in range(40):
        now_s = cycle * 60.0
        history = _decide(history, bounds, Pressure(waiting=1), now_s).history
        history = _decide(history, bounds, Pressure(idle_for_s=10.0), now_s + 20.0).history
        counts.append(history.count)
    # It sleeps as often as starts can wake it again: once at first, then each quarter of an hour or so.
    assert counts[0] == 0
    assert 2 <= counts.count(0) <= 5


def test_a_burst_counts_at_once_and_is_forgotten_slowly() -> None:
    arrivals = Arrivals()
    arrivals.add(2, 100.0)
    # Two in a row may be chance.
    assert arrivals.per_s(100.5) == pytest.approx(2 / 60)
    arrivals.add(34, 101.0)
    assert arrivals.per_s(101.0) == pytest.approx((36 - 1.5 * 6) / 3)
    assert arrivals.per_s(108.0) == pytest.approx((36 - 1.5 * 6) / 10)
    assert arrivals.per_s(150.0) == pytest.approx(36 / 60)
    assert arrivals.per_s(170.0) == 0.0


def test_lengths_follow_what_ended() -> None:
    lengths = Lengths(100.0, 100.0)
    for _ in range(200):
        lengths.add(10, 0)
    traffic = lengths.traffic(2.0)
    assert (round(traffic.input_tokens), traffic.output_tokens, traffic.requests_per_s) == (10, 1.0, 2.0)


def test_a_helper_that_carries_the_load_alone_keeps_one_and_one_that_does_not_counts_for_nothing() -> None:
    fast = Capacity(places=32, speeds=((1, 80.0), (32, 2_000.0)), prefill_tokens_per_s=20_000.0)
    helped = msgspec.structs.replace(PROFILED, helper=fast)
    load = _load(6.0, running=20)
    alone = _decide(History(count=1), GROWS, load).history.count
    assert alone > 1
    assert _decide(History(count=1), GROWS, load, capacity=helped).history.count == 1
    flood = _load(60.0, waiting=200, running=40)
    assert (
        _decide(History(count=1), GROWS, flood, capacity=helped).history.count
        == _decide(History(count=1), GROWS, flood).history.count
    )
    unmeasured = msgspec.structs.replace(PROFILED, helper=Capacity(places=32))
    assert _decide(History(count=1), GROWS, load, capacity=unmeasured).history.count == alone
