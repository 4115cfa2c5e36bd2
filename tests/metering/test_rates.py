"""Token buckets against an exact model of one."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.metering.rates import WINDOW_NS, Decision, decide, duration_text

_START_NS = 10**12
_steps = st.lists(st.tuples(st.integers(0, WINDOW_NS), st.integers(1, 60)), min_size=1, max_size=40)


def _first(rpm: int | None, tpm: int | None, tokens: int = 1) -> Decision:
    return decide(0, 0, rpm, tpm, tokens, _START_NS)


@settings(deadline=None)
@given(st.integers(1, 100), _steps)
def test_a_bucket_admits_what_an_exact_one_does(limit: int, steps: list[tuple[int, int]]) -> None:
    full_at_ns, now_ns, level = 0, _START_NS, Fraction(limit)
    for waited_ns, amount in steps:
        now_ns += waited_ns
        level = min(level + Fraction(waited_ns * limit, WINDOW_NS), Fraction(limit))
        decision = decide(0, full_at_ns, None, limit, amount, now_ns)
        full_at_ns = decision.tokens_full_at_ns
        # One ns per request is lost to rounding, in the caller's favour.
        tolerance = Fraction(limit * len(steps), WINDOW_NS)
        if decision.state.is_allowed:
            assert amount <= level + tolerance
            level -= amount
        else:
            assert amount > level
        remaining = decision.state.remaining_tokens
        assert remaining is not None
        assert 0 <= remaining <= limit
        assert remaining - tolerance <= max(level, Fraction(0)) < remaining + 1


@settings(deadline=None)
@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(0, WINDOW_NS), st.integers(0, WINDOW_NS))
def test_waiting_as_told_is_enough(rpm: int, tpm: int, requests_used: int, tokens_used: int) -> None:
    tokens = max(tpm // 2, 1)
    before = (_START_NS + requests_used, _START_NS + tokens_used)
    decision = decide(*before, rpm, tpm, tokens, _START_NS)
    if decision.state.is_allowed:
        return
    assert (decision.requests_full_at_ns, decision.tokens_full_at_ns) == before
    wait_s = decision.state.retry_after_s
    assert wait_s is not None
    assert 0 < wait_s <= 60
    assert decide(*before, rpm, tpm, tokens, _START_NS + round(wait_s * 1e9)).state.is_allowed


@settings(deadline=None)
@given(st.integers(-(2**62), 2**62), st.integers(0, 2**61), st.integers(1, 10**9))
def test_no_clock_makes_a_window_negative_or_longer_than_a_minute(
    full_at_ns: int, now_ns: int, limit: int
) -> None:
    state = decide(full_at_ns, full_at_ns, limit, limit, 1, now_ns).state
    assert state.remaining_requests is not None
    assert state.reset_requests_s is not None
    assert 0 <= state.remaining_requests <= limit
    assert 0 <= state.reset_requests_s <= 60
    assert (state.retry_after_s or 0) <= 60


def test_exactly_the_limit_passes_at_once() -> None:
    full_at_ns = 0
    for number in range(7):
        decision = decide(full_at_ns, 0, 7, None, 1, _START_NS)
        full_at_ns = decision.requests_full_at_ns
        assert decision.state.remaining_requests == 6 - number
    last = decide(full_at_ns, 0, 7, None, 1, _START_NS).state
    assert (last.hit, last.remaining_requests) == ("requests", 0)
    assert last.retry_after_s == pytest.approx(60 / 7, abs=0.001)


def test_a_changed_limit_keeps_the_share_in_use() -> None:
    half = _first(None, 100, 50).tokens_full_at_ns
    assert decide(0, half, None, 1_000, 1, _START_NS).state.remaining_tokens == 499
    assert decide(0, half, None, 10, 1, _START_NS).state.remaining_tokens == 4


def test_what_can_never_pass_is_not_told_to_wait() -> None:
    assert _first(None, 10, 11).state[:2] == ("tokens", None)
    assert _first(0, None).state[:2] == ("requests", None)
    assert _first(10, 0).state[:2] == ("tokens", None)


def test_a_refusal_takes_from_neither_bucket() -> None:
    spent = _first(None, 10, 10)
    refused = decide(spent.requests_full_at_ns, spent.tokens_full_at_ns, 5, 10, 1, _START_NS)
    assert refused.state.hit == "tokens"
    assert refused.state.remaining_requests == 5


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [
        (0, "0ms"),
        (0.0001, "1ms"),
        (0.012, "12ms"),
        (0.9999, "1s"),
        (1, "1s"),
        (59.2, "1m0s"),
        (61.5, "1m2s"),
        (360, "6m0s"),
    ],
)
def test_durations_are_written_as_clients_parse_them(duration_s: float, text: str) -> None:
    assert duration_text(duration_s) == text
