"""Confidence sequences: no more false alarms than promised at any look, and enough power to be of use."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.precision.sequential import interval, is_shown_above, is_shown_below, log_wealth

ALPHA = 0.05
RUNS, LENGTH = 400, 120


def false_alarms(mean: float, side: int) -> float:
    """Share of runs in which the wealth against the true mean ever reaches 1/alpha: looked at after every item."""
    rng = np.random.default_rng(7)
    crossed = 0
    for _ in range(RUNS):
        # Skewed like KL divergences: many small values, few large ones, mean `mean`.
        values = rng.beta(0.6, 0.6 * (1 - mean) / mean, size=LENGTH)
        crossed += log_wealth(values, np.array([mean]), side)[0] >= np.log(1 / ALPHA)
    return crossed / RUNS


@pytest.mark.parametrize("mean", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("side", [1, -1])
def test_looking_after_every_item_keeps_the_promised_error(mean: float, side: int) -> None:
    assert false_alarms(mean, side) <= ALPHA


def test_a_clear_difference_is_shown_within_a_few_items() -> None:
    assert is_shown_above([0.9] * 8, limit=0.1, cap=1.0, alpha=ALPHA)
    assert is_shown_below([0.001] * 60, limit=0.1, cap=1.0, alpha=ALPHA)


def test_nothing_is_shown_by_nothing() -> None:
    assert not is_shown_above([], 0.1, 1.0, ALPHA)
    assert not is_shown_below([], 0.1, 1.0, ALPHA)


@given(st.lists(st.floats(0, 3), min_size=1, max_size=80), st.floats(0.05, 0.95))
def test_the_two_directions_never_both_hold(values: list[float], limit: float) -> None:
    assert not (is_shown_above(values, limit, 1.0, ALPHA) and is_shown_below(values, limit, 1.0, ALPHA))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_the_interval_holds_the_mean_seen(values: list[float]) -> None:
    low, high = interval(values, 1.0, ALPHA)
    assert 0 <= low <= high <= 1
    assert low - 0.01 <= float(np.mean(values)) <= high + 0.01


def test_more_items_narrow_the_interval() -> None:
    rng = np.random.default_rng(3)
    values = list(rng.beta(2, 8, size=200))
    wide, narrow = interval(values[:20], 1.0, ALPHA), interval(values, 1.0, ALPHA)
    assert narrow[1] - narrow[0] < (wide[1] - wide[0]) / 2
