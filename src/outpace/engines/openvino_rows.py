"""Weights of 8 bit whose groups share a scale per row: held with one scale per row, which the engine multiplies faster.

OpenVINO GenAI's reader of GGUF files writes a scale for each 32 columns of every matrix. For `q8_row` they are all the
same in a row, so one per row says the same numbers; nothing is rounded here.
"""

from typing import Any

import numpy as np
import openvino
from openvino import opset13

# Columns that share a scale where activations are made 8 bit for a product. Where weights have no group scales it may
# be wider than the engine's 32, and prompts are read a sixth faster; 192 reads them a quarter faster, but moves what
# the model says twice as far from its exact weights (docs/lab/LOG.md, 2026-11-29).
ACTIVATION_GROUP = 64
# Where the engine's plugin looks for settings that a model comes with; settings of the caller go before.
_OPTION = ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"]
# Steps are stored from 0 to 255 around this.
_MIDDLE = 128


def merge_groups(model: Any) -> bool:
    """Change a model when all its matrices of 8 bit have one scale per row; False: it stays as it is."""
    found = [node for node in model.get_ops() if _groups(node) is not None]
    if not found or not all(_is_by_row(node) for node in found):
        return False
    is_divided = all(node.get_output_shape(0)[1] % ACTIVATION_GROUP == 0 for node in found)
    for node in found:
        _replace(node)
    if is_divided:
        model.set_rt_info(str(ACTIVATION_GROUP), _OPTION)
    return True


def _groups(node: Any) -> tuple[Any, Any, Any] | None:
    """Steps (rows, groups, columns of a group), middles and scales (rows, groups, 1) of a `Reshape` to a matrix."""
    if node.get_type_name() != "Reshape" or len(node.get_output_partial_shape(0)) != 2:
        return None
    scaled = _input(node, 0)
    if scaled.get_type_name() != "Multiply" or _input(scaled, 0).get_type_name() != "Subtract":
        return None
    shifted, scales = _input(scaled, 0), _input(scaled, 1)
    steps, middles = (_input(_input(shifted, at), 0) for at in (0, 1))
    if any(each.get_type_name() != "Constant" for each in (steps, middles, scales)):
        return None
    if steps.get_element_type() != openvino.Type.u8 or len(steps.get_output_shape(0)) != 3:
        return None
    return steps, middles, scales


def _is_by_row(node: Any) -> bool:
    groups = _groups(node)
    assert groups is not None
    middles, scales = (each.get_data() for each in groups[1:])
    return bool((middles == _MIDDLE).all() and (scales == scales[:, :1]).all())


def _replace(node: Any) -> None:
    groups = _groups(node)
    assert groups is not None
    steps, _, scales = (each.get_data() for each in groups)
    # Of 8 bits, the other first bit is 128 less.
    rows = (steps.reshape(len(steps), -1) ^ np.uint8(_MIDDLE)).view(np.int8)
    weights = opset13.convert(opset13.constant(rows), np.float16)
    scaled = opset13.multiply(weights, opset13.constant(np.ascontiguousarray(scales[:, 0])))
    scaled.set_friendly_name(node.get_friendly_name())
    openvino.utils.replace_node(node, scaled)


def _input(node: Any, at: int) -> Any:
    return node.input_value(at).get_node() if at < node.get_input_size() else node
