"""Rounding of our own: rows of 8 bit with one scale."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as GgmlType
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from outpace.precision import ggml

COLUMNS = 64
ROWS = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.just(COLUMNS)),
    elements=st.floats(-60_000, 60_000, width=32),
)


@given(ROWS)
def test_rows_of_one_scale_are_q8_0_and_nearest(values: np.ndarray) -> None:
    raw = ggml.quantize_rows(values)
    scales = raw.reshape(len(values), -1, 34)[:, :, :2]
    assert (scales == scales[:, :1]).all()
    said = gguf.quants.dequantize(raw, GgmlType.Q8_0)
    step = scales[:, 0].copy().view(np.float16).astype(np.float32)
    assert (np.abs(said - values) <= step * 0.501).all()
    # The scale is the least that reaches the largest number: 16 bits of it are exact to a thousandth, or to 6e-8.
    most = np.abs(values).max(axis=1, keepdims=True) / 127
    assert (step <= most * 1.001 + 6e-8).all()


@pytest.mark.parametrize("value", [0.0, 1e-9, 65_504.0])
def test_the_ends_of_the_range(value: float) -> None:
    said = gguf.quants.dequantize(ggml.quantize_rows(np.full((1, 32), value, np.float32)), GgmlType.Q8_0)
    assert np.allclose(said, value, rtol=1e-3, atol=6e-8)
