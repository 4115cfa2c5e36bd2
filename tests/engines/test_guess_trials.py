"""Blocks of steps with and without guesses."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.engines.guess_trials import BLOCK_STEPS, Trials


def shares(
    trials: Trials, sequences: int, steps: int, gain: float, noise: float = 0.0, seed: int = 1
) -> float:
    """The share of steps with guesses, which are `gain` times as good as those without."""
    dice, allowed = random.Random(seed), 0
    for _ in range(steps):
        is_allowed = trials.allows(sequences)
        allowed += is_allowed
        trials.took(sequences, (gain if is_allowed else 1.0) * (1.0 + dice.uniform(-noise, noise)))
    return allowed / steps


def test_beside_others_both_ways_are_tried_first_and_the_better_one_is_kept() -> None:
    trials = Trials()
    assert not trials.allows(8)
    assert shares(trials, 8, 6 * BLOCK_STEPS, gain=1.5) == 0.5
    assert trials.allows(8)
    assert shares(trials, 8, 2_000, gain=1.5) > 0.95


@pytest.mark.parametrize("sequences", [1, 2, 32])
def test_guesses_that_cost_are_given_up_and_tried_again_now_and_then(sequences: int) -> None:
    trials = Trials()
    shares(trials, sequences, 1_000, gain=0.8)
    share = shares(trials, sequences, 4_000, gain=0.8)
    assert 0.0 < share < 0.05
    # The texts are others now.
    assert shares(trials, sequences, 8_000, gain=2.0) > 0.6
    assert shares(trials, sequences, 4_000, gain=2.0) > 0.95


def test_who_is_alone_guesses_from_the_first_step_on_and_keeps_to_it_where_it_is_no_worse() -> None:
    trials = Trials()
    assert trials.allows(1)
    assert shares(trials, 1, 8_000, gain=1.0) > 0.9
    # Beside others what gains nothing is left.
    assert shares(trials, 4, 8_000, gain=1.0) < 0.1


def test_each_size_of_a_step_has_a_trial_of_its_own() -> None:
    trials = Trials()
    for _ in range(300):
        shares(trials, 4, 1, gain=1.5)
        shares(trials, 16, 1, gain=0.7)
    assert shares(trials, 7, 400, gain=1.5) > 0.8
    assert shares(trials, 31, 400, gain=0.7) < 0.2


@given(gain=st.floats(0.3, 3.0), sequences=st.integers(1, 64), seed=st.integers(0, 1_000))
@settings(max_examples=60)
def test_whatever_guesses_gain_little_is_lost_on_a_noisy_machine(
    gain: float, sequences: int, seed: int
) -> None:
    share = shares(Trials(), sequences, 6_000, gain, noise=0.2, seed=seed)
    rate = share * gain + (1.0 - share)
    assert rate > 0.97 * max(1.0, gain) - 0.03
