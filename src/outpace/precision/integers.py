"""INT8 and INT4 checkpoints in the compressed-tensors layout: W8A8 and W4A16, with scales from calibration texts.

W8A8 (`int-quantized`): one scale per output channel, activations scaled per token at run time. Where a norm feeds a
matrix, part of the activations' unevenness is moved into the weights first (SmoothQuant, Xiao et al. 2023, arXiv
2211.10438, equation 4, alpha 0.5).
W4A16 (`pack-quantized`): one scale per group of columns, searched for the least error of the layer's output on the
texts: columns weigh by the mean square of their input (the diagonal of GPTQ's Hessian, Frantar et al. 2022, arXiv
2210.17323; llama.cpp's importance matrix is the same). Eight values in one 32-bit word, lowest bits first.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from outpace.precision.checkpoint import Tensor, as_numbers, config_of, read_shard, shards
from outpace.precision.compressed import Report, as_scale, is_linear, make_compressed, rounded_scale
from outpace.values.errors import InvalidInput

Floats = NDArray[np.float32]
INT8_MAX = 127.0
INT4_MAX = 7.0
# Group sizes that vLLM's kernels know; the largest that divides every matrix is taken.
_GROUPS = (128, 64, 32)
# Shares of the largest value that a group's scale may be made for: clipping a little can lower the whole error.
_SHARES = np.linspace(0.7, 1.0, 13, dtype=np.float32)
_SMALLEST_SCALE = 2.0**-100
_ALPHA = 0.5
# Architectures whose norms multiply by their weight alone, and which matrices each norm feeds.
_PLAIN_NORMS = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3"})
_FED_BY = {
    "self_attn.q_proj": "input_layernorm",
    "self_attn.k_proj": "input_layernorm",
    "self_attn.v_proj": "input_layernorm",
    "mlp.gate_proj": "post_attention_layernorm",
    "mlp.up_proj": "post_attention_layernorm",
}


class Columns(msgspec.Struct, frozen=True):
    """What a layer's input was on the calibration texts, column by column."""

    mean_square: Any
    largest: Any


Seen = Mapping[str, Columns]


def make_w8a8(source: Path, target: Path, seen: Seen, report: Report = lambda done, total: None) -> None:
    """Write the checkpoint folder `source` at W8A8 to the empty folder `target`. Raises as `make_compressed` does."""
    make_compressed(source, target, W8A8(_smoothing(source, seen)), report)


def make_w4a16(source: Path, target: Path, seen: Seen, report: Report = lambda done, total: None) -> None:
    """Write the checkpoint folder `source` at W4A16 to the empty folder `target`. Raises as `make_compressed` does."""
    make_compressed(source, target, W4A16(_group_of(source), seen), report)


class W8A8:
    """The scheme W8A8; `smoothing` holds the factors of each norm's columns."""

    def __init__(self, smoothing: Mapping[str, Floats]) -> None:
        self._smoothing = smoothing

    def compress(self, name: str, values: Floats) -> Mapping[str, Tensor]:
        factors = self._smoothing.get(_norm_of(name))
        weight, scale = quantize_int8(values if factors is None else values * factors)
        return {"weight": weight, "weight_scale": as_scale(scale)}

    def keep(self, name: str, values: Tensor) -> Tensor:
        factors = self._smoothing.get(name.removesuffix(".weight"))
        return values if factors is None else (values.astype(np.float32) / factors).astype(values.dtype)

    def config(self) -> dict[str, Any]:
        weights = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True, "dynamic": False}
        activations = {
            "num_bits": 8, "type": "int", "strategy": "token", "symmetric": True, "dynamic": True,
        }  # fmt: skip
        return {"format": "int-quantized", "weights": weights, "input_activations": activations}


class W4A16:
    """The scheme W4A16 with groups of `group` columns."""

    def __init__(self, group: int, seen: Seen) -> None:
        self._group = group
        self._seen = seen

    def compress(self, name: str, values: Floats) -> Mapping[str, Tensor]:
        columns = self._seen.get(name)
        importance = np.ones(values.shape[1], np.float32) if columns is None else columns.mean_square
        levels, scale = quantize_int4(values, self._group, importance)
        return {
            "weight_packed": pack_int4(levels),
            "weight_scale": as_scale(scale),
            "weight_shape": np.array(values.shape, dtype=np.int64),
        }

    def keep(self, name: str, values: Tensor) -> Tensor:
        return values

    def config(self) -> dict[str, Any]:
        weights = {
            "num_bits": 4, "type": "int", "strategy": "group", "group_size": self._group,
            "symmetric": True, "dynamic": False,
        }  # fmt: skip
        return {"format": "pack-quantized", "weights": weights, "input_activations": None}


def quantize_int8(values: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Integers and one scale per row, (rows, 1), rounded to BF16 as it will be stored."""
    largest = np.abs(values).max(axis=1, keepdims=True)
    scale = rounded_scale(np.maximum(largest / INT8_MAX, _SMALLEST_SCALE))
    return np.clip(np.rint(values / scale), -128, INT8_MAX).astype(np.int8), scale


def quantize_int4(values: Floats, group: int, importance: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Integers from -8 to 7, and one scale per row and group, (rows, groups), of least weighted error."""
    rows, columns = values.shape
    grouped = values.reshape(rows, columns // group, group)
    weights = np.maximum(importance.reshape(1, columns // group, group), 1e-12)
    largest = np.maximum(np.abs(grouped).max(axis=2, keepdims=True), _SMALLEST_SCALE * INT4_MAX)
    best = np.full(largest.shape, np.inf, dtype=np.float32)
    scale = np.empty_like(largest)
    for share in _SHARES:
        tried = rounded_scale(largest * share / INT4_MAX)
        error = ((grouped - _levels(grouped, tried) * tried) ** 2 * weights).sum(axis=2, keepdims=True)
        scale = np.where(error < best, tried, scale)
        best = np.minimum(error, best)
    return _levels(grouped, scale).astype(np.int8).reshape(rows, columns), scale[:, :, 0]


def pack_int4(levels: NDArray[np.int8]) -> NDArray[np.int32]:
    """Eight neighbours of a row in one word, the first in the lowest bits, each shifted by 8 to be positive."""
    rows, columns = levels.shape
    shifted = (levels.astype(np.int16) + 8).astype(np.uint32).reshape(rows, columns // 8, 8)
    words = (shifted << (4 * np.arange(8, dtype=np.uint32))).sum(axis=2, dtype=np.uint32)
    return np.asarray(words.view(np.int32))


def unpack_int4(packed: NDArray[np.int32]) -> NDArray[np.int8]:
    """The integers in packed words."""
    words = np.ascontiguousarray(packed).view(np.uint32)[:, :, None] >> (4 * np.arange(8, dtype=np.uint32))
    return ((words & 15).astype(np.int8) - 8).reshape(packed.shape[0], -1)


def _levels(grouped: Floats, scale: Floats) -> Floats:
    return np.asarray(np.clip(np.rint(grouped / scale), -INT4_MAX - 1, INT4_MAX))


def _norm_of(layer: str) -> str:
    """The norm that feeds a layer such as `model.layers.3.mlp.up_proj`; empty for none."""
    for end, norm in _FED_BY.items():
        if layer.endswith(f".{end}"):
            return f"{layer.removesuffix(end)}{norm}"
    return ""


def _smoothing(source: Path, seen: Seen) -> dict[str, Floats]:
    """Per norm: by how much each column of its output shrinks, and of its matrices grows."""
    if config_of(source).get("model_type") not in _PLAIN_NORMS:
        return {}
    widest: dict[str, Floats] = {}
    inputs: dict[str, Floats] = {}
    for layer, values in _matrices(source):
        norm, columns = _norm_of(layer), seen.get(layer)
        if norm and columns is not None:
            largest = np.abs(values).max(axis=0)
            widest[norm] = np.maximum(largest, widest.get(norm, largest))
            inputs[norm] = columns.largest
    return {norm: _factors(inputs[norm], widest[norm]) for norm in widest}


def _factors(inputs: Floats, weights: Floats) -> Floats:
    factors = np.maximum(inputs, 1e-5) ** _ALPHA / np.maximum(weights, 1e-5) ** (1 - _ALPHA)
    return np.asarray(np.clip(factors, 1e-2, 1e2), dtype=np.float32)


def _matrices(source: Path) -> Iterable[tuple[str, Floats]]:
    for shard in shards(source):
        for name, values in read_shard(shard):
            if is_linear(name, values):
                yield name.removesuffix(".weight"), as_numbers(values, name)


def _group_of(source: Path) -> int:
    widths = {values.shape[1] for _, values in _matrices(source)}
    for group in _GROUPS:
        if all(width % group == 0 for width in widths):
            return group
    raise InvalidInput(
        "--to", f"w4a16 needs rows that divide by {_GROUPS[-1]}; these are {sorted(widths)[:8]}"
    )
