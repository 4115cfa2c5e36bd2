"""Rounding a matrix so that its output stays: each column's error is made up for by the columns that come after it.

GPTQ (Frantar et al. 2022, arXiv 2210.17323) on ggml's own blocks: when a block's turn comes, ggml's quantizer finds
its scale on the numbers as they are by then. Blocks, and columns within one, come in order of how much flows through.
"""

from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as GgmlType
from numpy.typing import NDArray

from outpace.precision import ggml

Floats = NDArray[np.float32]
Raw = NDArray[np.uint8]
# Values per block of the types that are fitted; finer ones lose too little to be worth it.
BLOCKS = {GgmlType.IQ4_NL: 32, GgmlType.Q4_K: 256}
# Share of the mean column that is added to the diagonal; 0.01, 0.1 and 0.3 were tried (docs/lab/LOG.md).
_DAMPING = 0.1
_STEP = 32
# ggml's table of the 16 values of IQ4_NL (ggml-common.h, kvalues_iq4nl).
_IQ4_NL = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.float32
)
_BETWEEN = (_IQ4_NL[1:] + _IQ4_NL[:-1]) / 2


def fitted(weights: Floats, kind: GgmlType, inputs: Floats) -> Raw:
    """Rows of `weights` as ggml stores them at `kind`, fitted to `inputs` (one row per token)."""
    moments = (inputs.T @ inputs).astype(np.float64) / len(inputs)
    flow = np.diag(moments).astype(np.float32)
    blocks = _order(flow, BLOCKS[kind])
    order = np.concatenate(blocks)
    factor = _factor(moments[np.ix_(order, order)])
    left = np.ascontiguousarray(weights[:, order])
    codes = np.empty(weights.shape, dtype=np.uint8)
    headers: dict[int, Raw] = {}
    size = BLOCKS[kind]
    for number, block in enumerate(blocks):
        here = slice(number * size, (number + 1) * size)
        grid = _Grid(left[:, here], block, kind, flow)
        codes[:, block], errors = _round_block(left[:, here], grid, factor[here, here])
        headers[int(block.min()) // size] = grid.header
        left[:, here.stop :] -= errors @ factor[here, here.stop :]
    return _packed(codes, np.stack([headers[number] for number in sorted(headers)], axis=1), kind)


def _order(flow: Floats, size: int) -> list[NDArray[np.int64]]:
    blocks = [np.arange(start, start + size) for start in range(0, len(flow), size)]
    blocks.sort(key=lambda block: -float(flow[block].sum()))
    return [block[np.argsort(-flow[block], kind="stable")] for block in blocks]


def _factor(moments: NDArray[np.float64]) -> Floats:
    """The upper Cholesky factor of the inverse; its rows say how an error is spread over later columns."""
    # Where nothing ever flows, the identity keeps it invertible.
    damping = _DAMPING * float(np.diag(moments).mean()) or 1.0
    inverse = np.linalg.inv(moments + damping * np.eye(len(moments)))
    return np.asarray(np.linalg.cholesky((inverse + inverse.T) / 2).T, dtype=np.float32)


class _Grid:
    """The values that a block's columns may take: found by ggml, one scale (and offset) per row and column."""

    def __init__(self, values: Floats, columns: NDArray[np.int64], kind: GgmlType, flow: Floats) -> None:
        natural = np.argsort(columns)
        raw = ggml.quantize(np.ascontiguousarray(values[:, natural]), kind, flow[np.sort(columns)])
        self._is_table = kind == GgmlType.IQ4_NL
        self.header: Raw = np.asarray(raw[:, : 2 if self._is_table else 16], dtype=np.uint8)
        scale, offset = _scales(self.header, self._is_table)
        width = values.shape[1] // scale.shape[1]
        place = np.argsort(natural)
        self.scale = np.repeat(scale, width, axis=1)[:, place]
        self.offset = np.repeat(offset, width, axis=1)[:, place]
        self._inverse = np.divide(1, self.scale, out=np.zeros_like(self.scale), where=self.scale != 0)

    def nearest(self, values: Floats, column: int) -> tuple[Raw, Floats]:
        """Code and value of what is nearest to one column of numbers."""
        scale, offset = self.scale[:, column], self.offset[:, column]
        level = (values + offset) * self._inverse[:, column]
        if self._is_table:
            codes = np.searchsorted(_BETWEEN, level).astype(np.uint8)
            return codes, np.asarray(scale * _IQ4_NL[codes], dtype=np.float32)
        codes = np.clip(np.rint(level), 0, 15).astype(np.uint8)
        return codes, np.asarray(scale * codes - offset, dtype=np.float32)


def _scales(header: Raw, is_table: bool) -> tuple[Floats, Floats]:
    """Scales and offsets of a block's parts, per row (ggml-quants.c, `get_scale_min_k4` for Q4_K)."""
    halves: Any = np.ascontiguousarray(header[:, : 2 if is_table else 4]).view(np.float16).astype(np.float32)
    if is_table:
        return halves, np.zeros_like(halves)
    first, second, third = header[:, 4:8], header[:, 8:12], header[:, 12:16]
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], axis=1)
    offsets = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=1)
    return scales * halves[:, :1], offsets * halves[:, 1:]


def _round_block(values: Floats, grid: _Grid, factor: Floats) -> tuple[Raw, Floats]:
    """Codes of a block and the errors that the columns after it are to make up for."""
    left = values.copy()
    codes, errors = np.empty(left.shape, dtype=np.uint8), np.empty_like(left)
    for start in range(0, left.shape[1], _STEP):
        stop = start + _STEP
        for column in range(start, stop):
            codes[:, column], rounded = grid.nearest(left[:, column], column)
            errors[:, column] = (left[:, column] - rounded) / factor[column, column]
            left[:, column + 1 : stop] -= np.outer(errors[:, column], factor[column, column + 1 : stop])
        left[:, stop:] -= errors[:, start:stop] @ factor[start:stop, stop:]
    return codes, errors


def _packed(codes: Raw, headers: Raw, kind: GgmlType) -> Raw:
    """Two codes a byte: IQ4_NL pairs the halves of 32, Q4_K those of 64 (block_iq4_nl, block_q4_K of ggml-common.h)."""
    rows, blocks = headers.shape[:2]
    pairs = codes.reshape(rows, blocks, -1, 2, 16 if kind == GgmlType.IQ4_NL else 32)
    low, high = pairs[..., 0, :], pairs[..., 1, :]
    body = (low | high << 4).reshape(rows, blocks, -1)
    return np.concatenate([headers, body], axis=2).reshape(rows, -1)
