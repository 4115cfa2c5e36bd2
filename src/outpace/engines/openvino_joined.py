"""The products that make queries, keys and values of the same input, joined to one.

The engine works through a graph node by node, and each takes some ten microseconds beside its numbers and makes the
same input 8 bit again: as long as the product itself where a model is small. Rows of the weights are stacked as they
are, so every number is the same as before. OpenVINO does this by itself only on GPUs and processors with AMX.

The two products that open a feed-forward layer stay apart: the engine applies the activation as it multiplies, and
would round once more between the two.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino
from openvino import opset13

# Weights kept as floats are for the engine to lay out.
_NARROW = frozenset({"i8", "u8", "i4", "u4"})


def join_products(model: Any) -> int:
    """Join what can be joined, in place; how many products are now one with others."""
    by_input = defaultdict(list)
    for node in model.get_ordered_ops():
        if _goes_to_heads(node):
            given = node.input_value(0)
            by_input[given.get_node().get_name(), given.get_index()].append(node)
    return sum(_join(products) for products in by_input.values())


def _goes_to_heads(node: Any) -> bool:
    """A product with a matrix by rows, which is only laid out by heads: nothing that the engine fuses follows."""
    if node.get_type_name() != "MatMul" or len(node.get_input_partial_shape(1)) != 2:
        return False
    ways = node.get_attributes()
    users = [each.get_node().get_type_name() for each in node.output(0).get_target_inputs()]
    return ways["transpose_b"] and not ways["transpose_a"] and set(users) == {"Reshape"}


def _join(products: Sequence[Any]) -> int:
    weights = _stacked([_inputs(product)[1] for product in products]) if len(products) > 1 else None
    if weights is None:
        return 0
    joined = opset13.matmul(products[0].input_value(0), weights, False, True)
    rows = np.array([product.get_input_shape(1)[0] for product in products], dtype=np.int64)
    parts = opset13.variadic_split(joined, opset13.constant(np.int64(-1)), opset13.constant(rows))
    for at, product in enumerate(products):
        for user in product.output(0).get_target_inputs():
            user.replace_source_output(parts.output(at))
    return len(products)


def _stacked(nodes: Sequence[Any]) -> Any | None:
    """One expression of weights with the rows of all, the first one's first; None where they differ in kind."""
    first = nodes[0]
    if len({(node.get_type_name(), _kind(node)) for node in nodes}) > 1:
        return None
    match first.get_type_name():
        case "Constant":
            return _stacked_constants(nodes)
        case "Convert":
            weights = _inputs(first)[0]
            if weights.get_type_name() == "Constant" and _kind(weights) not in _NARROW:
                return None
            (inner,) = _stacked_inputs(nodes, 1)
            return inner and opset13.convert(inner, first.get_element_type())
        case "Subtract":
            inner, middles = _stacked_inputs(nodes, 2)
            return inner and middles and opset13.subtract(inner, middles)
        case "Multiply":
            inner, scales = _stacked_inputs(nodes, 2)
            return inner and scales and opset13.multiply(inner, scales)
        case "Reshape":
            (inner,) = _stacked_inputs(nodes, 1)
            num_rows = sum(node.get_output_shape(0)[0] for node in nodes)
            shape = np.array([num_rows, *first.get_output_shape(0)[1:]])
            return inner and opset13.reshape(inner, opset13.constant(shape), special_zero=False)
    return None


def _stacked_inputs(nodes: Sequence[Any], count: int) -> list[Any | None]:
    return [_stacked([_inputs(node)[at] for node in nodes]) for at in range(count)]


def _stacked_constants(nodes: Sequence[Any]) -> Any | None:
    shapes = [list(node.get_output_shape(0)) for node in nodes]
    if len({(len(shape), *shape[1:]) for shape in shapes}) > 1 or not shapes[0]:
        return None
    stacked = openvino.Tensor(
        nodes[0].get_element_type(), openvino.Shape([sum(each[0] for each in shapes), *shapes[0][1:]])
    )
    # Types of four bits come two to a byte, so the bytes of rows are put behind each other.
    values = np.concatenate([node.get_data().reshape(-1) for node in nodes])
    data = stacked.data
    if data.size != values.size:
        return None
    data.reshape(-1)[...] = values
    return opset13.constant(stacked)


def _kind(node: Any) -> str:
    return str(node.get_output_element_type(0).get_type_name())


def _inputs(node: Any) -> list[Any]:
    return [each.get_node() for each in node.input_values()]
