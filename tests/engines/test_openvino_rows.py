"""Groups that share a scale are merged to rows: the same numbers, another layout; the real compiler runs both."""

from pathlib import Path

import numpy as np
import openvino
import pytest
from numpy.typing import NDArray
from openvino import opset13

from outpace.engines.openvino_library import lay_out
from outpace.engines.openvino_rows import ACTIVATION_GROUP

ROWS, GROUP = 48, 32
# Activations stay whole, so that only the layout of weights may make a difference.
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
OPTION = ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"]


def write_model(path: Path, scales: NDArray[np.float16], middle: int = 128) -> None:
    """A product with a matrix of 8 bit, as OpenVINO GenAI's reader of GGUF writes it; scales are (rows, groups, 1)."""
    num_groups = scales.shape[1]
    steps = np.random.default_rng(5).integers(0, 256, (ROWS, num_groups, GROUP), dtype=np.uint8)
    middles = np.full((ROWS, num_groups, 1), middle, dtype=np.uint8)
    shifted = opset13.subtract(
        opset13.convert(opset13.constant(steps), np.float16),
        opset13.convert(opset13.constant(middles), np.float16),
    )
    scaled = opset13.multiply(shifted, opset13.constant(scales))
    matrix = opset13.reshape(
        scaled, opset13.constant(np.array([ROWS, num_groups * GROUP])), special_zero=False
    )
    given = opset13.parameter([-1, num_groups * GROUP], np.float32, name="x")
    product = opset13.matmul(given, opset13.convert(matrix, np.float32), False, True)
    openvino.save_model(openvino.Model([product], [given], "m"), path, compress_to_fp16=False)


def by_row(num_groups: int) -> NDArray[np.float16]:
    one = np.random.default_rng(6).uniform(0.01, 0.1, (ROWS, 1, 1)).astype(np.float16)
    return np.repeat(one, num_groups, axis=1)


def run(path: Path, columns: int) -> NDArray[np.float32]:
    given = np.random.default_rng(7).normal(size=(3, columns)).astype(np.float32)
    compiled = openvino.Core().compile_model(path, "CPU", EXACT)
    return np.array(compiled(given)[0])


def constants(path: Path) -> set[tuple[int, ...]]:
    model = openvino.Core().read_model(path)
    return {tuple(node.get_output_shape(0)) for node in model.get_ops() if node.get_type_name() == "Constant"}


@pytest.mark.parametrize(("num_groups", "is_divided"), [(4, True), (3, False)])
def test_one_scale_per_row_says_the_same(tmp_path: Path, num_groups: int, is_divided: bool) -> None:
    path = tmp_path / "openvino_model.xml"
    write_model(path, by_row(num_groups))
    before = run(path, num_groups * GROUP)
    assert lay_out(path)
    assert np.allclose(run(path, num_groups * GROUP), before, rtol=1e-3, atol=1e-2)
    assert constants(path) == {(ROWS, num_groups * GROUP), (ROWS, 1)}
    model = openvino.Core().read_model(path)
    # Where a wide group does not divide the columns, the engine's own stays.
    assert model.has_rt_info(OPTION) == is_divided
    if is_divided:
        assert model.get_rt_info(OPTION).value == str(ACTIVATION_GROUP)
    assert {each.name for each in tmp_path.iterdir()} == {"openvino_model.xml", "openvino_model.bin"}


@pytest.mark.parametrize("what", ["a scale differs", "another middle"])
def test_anything_else_stays_as_it_is(tmp_path: Path, what: str) -> None:
    path = tmp_path / "openvino_model.xml"
    scales = by_row(4)
    if what == "a scale differs":
        scales[3, 2, 0] *= 2
    write_model(path, scales, middle=127 if what == "another middle" else 128)
    before = path.read_bytes()
    assert not lay_out(path)
    assert path.read_bytes() == before


def test_a_model_without_such_matrices_stays(tmp_path: Path) -> None:
    path = tmp_path / "openvino_model.xml"
    given = opset13.parameter([-1, 4], np.float32)
    openvino.save_model(openvino.Model([opset13.relu(given)], [given], "m"), path)
    assert not lay_out(path)
