"""Products for queries, keys and values become one: every number stays; the real compiler runs both."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from numpy.typing import NDArray
from openvino import opset13

from outpace.engines.openvino_joined import join_products
from outpace.engines.openvino_library import lay_out

GROUP, NUM_GROUPS = 32, 3
COLUMNS = GROUP * NUM_GROUPS
ROWS = (64, 32, 32)
HEAD = 16
# As on a machine where nothing is made 8 bit or 16 bit on the way.
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}

Weights = Callable[[int, np.random.Generator], Any]


def grouped(kind: openvino.Type) -> Weights:
    """A matrix of narrow steps with a scale and a middle for each group, as the library's reader of GGUF writes it."""

    def written(rows: int, dice: np.random.Generator) -> Any:
        half = 1 << (kind.get_bitwidth() - 1)
        steps = openvino.Tensor(kind, openvino.Shape([rows, NUM_GROUPS, GROUP]))
        steps.data[...] = dice.integers(0, 256, steps.data.shape, dtype=np.uint8)
        middles = openvino.Tensor(kind, openvino.Shape([rows, NUM_GROUPS, 1]))
        middles.data[...] = half if half > 8 else half * 17
        scales = dice.uniform(0.01, 0.1, (rows, NUM_GROUPS, 1)).astype(np.float16)
        shifted = opset13.subtract(
            opset13.convert(opset13.constant(steps), np.float16),
            opset13.convert(opset13.constant(middles), np.float16),
        )
        scaled = opset13.multiply(shifted, opset13.constant(scales))
        matrix = opset13.reshape(scaled, opset13.constant(np.array([rows, COLUMNS])), special_zero=False)
        return opset13.convert(matrix, np.float32)

    return written


def whole(rows: int, dice: np.random.Generator) -> Any:
    """A matrix of floats."""
    return opset13.convert(opset13.constant(dice.normal(size=(rows, COLUMNS)).astype(np.float16)), np.float32)


def by_heads(product: Any) -> Any:
    return opset13.reshape(product, opset13.constant(np.array([0, -1, HEAD])), special_zero=True)


def model_of(weights: tuple[Weights, ...], after: Callable[[Any], Any] = by_heads) -> Any:
    dice = np.random.default_rng(3)
    given = opset13.parameter([-1, COLUMNS], np.float32, name="x")
    products = [
        after(opset13.matmul(given, each(rows, dice), False, True))
        for each, rows in zip(weights, ROWS, strict=True)
    ]
    return openvino.Model(products, [given], "m")


def products(model: Any) -> int:
    return sum(node.get_type_name() == "MatMul" for node in model.get_ops())


def run(model: Any) -> list[NDArray[np.float32]]:
    given = np.random.default_rng(7).normal(size=(5, COLUMNS)).astype(np.float32)
    compiled = openvino.Core().compile_model(model, "CPU", EXACT)
    return [np.array(each) for each in compiled(given).values()]


@pytest.mark.parametrize("kind", [openvino.Type.u8, openvino.Type.u4])
def test_one_product_says_the_same(kind: openvino.Type) -> None:
    weights = (grouped(kind),) * 3
    before, after = model_of(weights), model_of(weights)
    assert join_products(after) == 3
    after.validate_nodes_and_infer_types()
    assert products(after) == 1
    for one, other in zip(run(before), run(after), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)


def with_bias(product: Any) -> Any:
    return by_heads(opset13.add(product, opset13.constant(np.float32(1.0))))


NARROW = grouped(openvino.Type.u8)


@pytest.mark.parametrize(
    ("weights", "after"),
    [
        pytest.param((NARROW,) * 3, opset13.swish, id="an activation follows"),
        pytest.param((NARROW,) * 3, with_bias, id="a bias follows"),
        pytest.param((whole,) * 3, by_heads, id="matrices of floats"),
        pytest.param((NARROW, grouped(openvino.Type.u4), whole), by_heads, id="three kinds"),
    ],
)
def test_what_the_engine_lays_out_itself_stays(
    weights: tuple[Weights, ...], after: Callable[[Any], Any]
) -> None:
    model = model_of(weights, after)
    assert join_products(model) == 0
    assert products(model) == 3


def test_products_of_other_inputs_stay() -> None:
    dice = np.random.default_rng(3)
    given = [opset13.parameter([-1, COLUMNS], np.float32) for _ in range(2)]
    made = [by_heads(opset13.matmul(each, NARROW(32, dice), False, True)) for each in given]
    assert join_products(openvino.Model(made, given, "m")) == 0


def test_a_file_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "openvino_model.xml"
    openvino.save_model(model_of((NARROW,) * 3), path, compress_to_fp16=False)
    before = run(openvino.Core().read_model(path))
    assert lay_out(path)
    fresh = openvino.Core().read_model(path)
    assert products(fresh) == 1
    for one, other in zip(before, run(fresh), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)
    assert {each.name for each in tmp_path.iterdir()} == {"openvino_model.xml", "openvino_model.bin"}
    assert not lay_out(path)
