import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.lab.figures import Sample, gain, quantiles_ms, summed, tokens_until


def sample(
    began_s: float = 0.0,
    first_s: float = 1.0,
    ended_s: float = 3.0,
    tokens: int = 21,
    error: str | None = None,
) -> Sample:
    return Sample(began_s=began_s, first_s=first_s, ended_s=ended_s, output_tokens=tokens, error=error)


def test_latencies_and_rates_by_usage() -> None:
    figures = summed([sample(), sample(ended_s=5.0, tokens=41), sample(error="503 busy", tokens=0)], 5.0)
    assert (figures.requests, figures.errors, figures.error_texts) == (3, 1, {"503 busy": 1})
    assert figures.output_tokens_per_s == pytest.approx(62 / 5)
    assert figures.itl_ms is not None
    assert figures.itl_ms.p50 == pytest.approx(100)
    assert figures.ttft_ms is not None
    assert figures.ttft_ms.worst == pytest.approx(1000)


def test_the_tail_with_idle_users_is_not_steady() -> None:
    figures = summed([sample(), sample(ended_s=5.0, tokens=40)], 5.0, steady_until_s=3.0)
    assert figures.steady_output_tokens_per_s == pytest.approx((21 + 20) / 3)


def test_without_answers_there_are_no_latencies() -> None:
    figures = summed([sample(error="x", tokens=0)], 1.0)
    assert figures.ttft_ms is None
    assert figures.output_tokens_per_s == 0


@given(st.lists(st.floats(0, 100), min_size=1))
def test_quantiles_are_ordered(seconds: list[float]) -> None:
    seen = quantiles_ms(seconds)
    assert seen is not None
    assert seen.p50 <= seen.p95 <= seen.p99 <= seen.worst


@given(until_s=st.floats(0, 10), other_s=st.floats(0, 10))
def test_tokens_grow_with_time(until_s: float, other_s: float) -> None:
    samples = [sample(), sample(first_s=2.0, ended_s=7.0)]
    low, high = sorted((until_s, other_s))
    assert 0 <= tokens_until(samples, low) <= tokens_until(samples, high) <= 42


def test_gain_compares_neighbours() -> None:
    slow, fast = summed([sample()], 8.0), summed([sample()], 4.0)
    assert gain([fast, fast], [slow, slow]) == pytest.approx(2.0)
