"""Shifts of predictions that lie on one side: when one is taken, and that no fold teaches itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.planner.shifts import Residuals, learnt_shift, shift_of

GROUPS, ROWS, FOLDS = 24, 20, 4


def residuals(bias: float, seed: int = 0, group_spread: float = 0.05) -> Residuals:
    """Rows of groups whose middles scatter around a bias."""
    random = np.random.default_rng(seed)
    groups = np.repeat([f"g{n}" for n in range(GROUPS)], ROWS)
    middles = np.repeat(random.normal(bias, group_spread, GROUPS), ROWS)
    every = np.ones(GROUPS * ROWS, dtype=np.bool_)
    folds = np.repeat(np.arange(GROUPS) % FOLDS, ROWS)
    return Residuals(middles + random.normal(0, 0.05, GROUPS * ROWS), groups, folds, every, every)


@given(bias=st.floats(0.15, 0.5), sign=st.sampled_from([-1, 1]), seed=st.integers(0, 100))
def test_a_common_bias_is_learnt_and_taken_out(bias: float, sign: int, seed: int) -> None:
    shift, left = learnt_shift(residuals(sign * bias, seed))
    assert shift == pytest.approx(sign * bias, abs=0.05)
    assert abs(np.median(left)) < 0.06


@given(seed=st.integers(0, 100))
def test_without_a_bias_nothing_is_shifted(seed: int) -> None:
    made = residuals(0.0, seed, group_spread=0.2)
    made = Residuals(
        made.logs - shift_of(made.groups, made.logs), made.groups, made.folds, made.teaching, made.judged
    )
    shift, left = learnt_shift(made)
    assert shift == 0
    assert np.array_equal(left, made.logs)


def test_a_fold_is_shifted_by_what_the_others_taught() -> None:
    made = residuals(-0.3)
    _, before = learnt_shift(made)
    moved = made.logs + np.where(made.folds == 0, -0.2, 0.0)
    _, after = learnt_shift(Residuals(moved, made.groups, made.folds, made.teaching, made.judged))
    own = made.folds == 0
    assert np.allclose(after[own] - before[own], -0.2)
    assert not np.allclose(after[~own], before[~own])


def test_a_group_counts_once_however_many_rows_it_has() -> None:
    groups = np.array([f"g{n}" for n in range(11)] + ["g0"] * 500)
    logs = np.array([5.0] + [0.1] * 10 + [5.0] * 500)
    assert shift_of(groups, logs) == pytest.approx(0.1)


def test_few_groups_teach_nothing() -> None:
    assert shift_of(np.array(["a", "b"]), np.array([1.0, 1.0])) == 0
    nobody = np.zeros(0)
    made = Residuals(nobody, nobody.astype(np.str_), nobody.astype(np.intp), nobody > 0, nobody > 0)
    assert learnt_shift(made)[0] == 0
