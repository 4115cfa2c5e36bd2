"""Which token a row of logits gives."""

from collections import Counter

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.engines.openvino_wire import Sampling
from outpace.engines.sampling import Row, pick


def sampling(**given: float | int) -> Sampling:
    return msgspec.structs.replace(Sampling(max_tokens=1, seed=0, temperature=1.0), **given)


def drawn(row: Row, how: Sampling, times: int = 4_000) -> dict[int, float]:
    dice = np.random.default_rng(1)
    counts = Counter(pick(row, how, dice) for _ in range(times))
    return {token: count / times for token, count in counts.items()}


ROW: Row = np.log(np.array([0.1, 0.4, 0.2, 0.3], dtype=np.float32))


def test_without_heat_the_likeliest_is_taken() -> None:
    assert drawn(ROW, sampling(temperature=0.0), times=20) == {1: 1.0}


def test_tokens_come_as_often_as_they_are_likely() -> None:
    assert drawn(ROW, sampling()) == pytest.approx({0: 0.1, 1: 0.4, 2: 0.2, 3: 0.3}, abs=0.03)


def test_heat_evens_them_out() -> None:
    hot = np.exp(ROW / 2) / np.exp(ROW / 2).sum()
    assert drawn(ROW, sampling(temperature=2.0)) == pytest.approx(dict(enumerate(hot)), abs=0.03)


def test_tokens_of_a_long_row_come_as_often_as_they_are_likely() -> None:
    row = np.full(700, -30.0, dtype=np.float32)
    row[[0, 255, 256, 600, 699]] = np.log([0.1, 0.2, 0.3, 0.15, 0.25])
    wanted = {0: 0.1, 255: 0.2, 256: 0.3, 600: 0.15, 699: 0.25}
    assert drawn(row, sampling()) == pytest.approx(wanted, abs=0.03)


@pytest.mark.parametrize(
    ("filtered", "left"),
    [
        ({"top_k": 2}, {1, 3}),
        ({"top_p": 0.69}, {1, 3}),
        ({"top_p": 0.71}, {1, 2, 3}),
        ({"min_p": 0.6}, {1, 3}),
    ],
)
def test_filters_leave_the_likely_ones(filtered: dict[str, float], left: set[int]) -> None:
    assert drawn(ROW, sampling(**filtered)).keys() == left


@settings(max_examples=60)
@given(
    size=st.integers(1, 700),
    seed=st.integers(0, 99),
    spread=st.floats(0.0, 8.0),
    top_k=st.integers(0, 600),
    top_p=st.floats(0.01, 1.0),
    min_p=st.floats(0.0, 0.9),
)
def test_a_long_row_is_filtered_like_one_that_is_sorted_whole(
    size: int, seed: int, spread: float, top_k: int, top_p: float, min_p: float
) -> None:
    dice = np.random.default_rng(seed)
    row = (dice.standard_normal(size) * spread).astype(np.float32)
    shares = np.exp(row.astype(np.float64) - row.max())
    shares /= shares.sum()
    order = np.argsort(-shares, kind="stable")
    kept = order[: int(np.searchsorted(np.cumsum(shares[order]), top_p)) + 1] if top_p < 1 else order
    kept = kept[shares[kept] >= min_p * shares[kept[0]]][: top_k or None]
    how = sampling(top_k=top_k, top_p=top_p, min_p=min_p)
    # Equal shares may be cut off at another one of them.
    least = shares[kept].min()
    assert all(shares[pick(row, how, dice)] >= least - 1e-12 for _ in range(20))
