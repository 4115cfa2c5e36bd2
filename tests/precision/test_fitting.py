"""Fitted matrices: stored as ggml reads them, and closer in what they put out than ones rounded number by number."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType as GgmlType

from outpace.precision import ggml
from outpace.precision.fitting import BLOCKS, Floats, fitted

pytestmark = pytest.mark.parametrize("kind", list(BLOCKS))
COLUMNS = 512


def weights() -> Floats:
    return np.random.default_rng(1).standard_normal((48, COLUMNS)).astype(np.float32)


def inputs() -> Floats:
    """Columns that go together, as those of a model do."""
    rng = np.random.default_rng(2)
    common = rng.standard_normal((1_000, 40)) @ rng.standard_normal((40, COLUMNS))
    return (common + rng.standard_normal((1_000, COLUMNS))).astype(np.float32)


def output_error(made: Floats) -> float:
    exact = weights() @ inputs().T
    return float(np.sqrt(((made @ inputs().T - exact) ** 2).mean() / (exact**2).mean()))


def test_the_output_is_closer_than_with_plain_rounding(kind: GgmlType) -> None:
    flow = (inputs() ** 2).mean(axis=0)
    plain = ggml.dequantize(ggml.quantize(weights(), kind, flow), kind)
    made = ggml.dequantize(fitted(weights(), kind, inputs()), kind)
    assert output_error(made) < 0.6 * output_error(plain)


def test_every_number_stays_near_its_own(kind: GgmlType) -> None:
    """Columns or codes in a wrong place would show here."""
    made = ggml.dequantize(fitted(weights(), kind, inputs()), kind)
    assert np.sqrt(((made - weights()) ** 2).mean()) < 0.2


def test_it_is_as_large_as_ggml_makes_it(kind: GgmlType) -> None:
    assert fitted(weights(), kind, inputs()).nbytes == ggml.quantize(weights(), kind).nbytes


def test_columns_without_flow_and_rows_of_zeros_do_no_harm(kind: GgmlType) -> None:
    rows, flowing = weights(), inputs()
    rows[3] = 0
    flowing[:, 256:] = 0
    made = ggml.dequantize(fitted(rows, kind, flowing), kind)
    assert np.isfinite(made).all()
    assert not made[3].any()
    nothing = ggml.dequantize(fitted(rows, kind, np.zeros_like(flowing)), kind)
    assert np.isfinite(nothing).all()
