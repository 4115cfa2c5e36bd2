"""llama.cpp's own quantizer, out of the library that the engine's wheel carries; numpy where it is not installed."""

import ctypes
import importlib.util
from functools import cache
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as GgmlType
from numpy.typing import NDArray

from outpace.values.errors import InvalidInput

Floats = NDArray[np.float32]
Raw = NDArray[np.uint8]
_WHEEL = "xllamacpp"
# ggml's block_q8_0: a 16-bit scale and 32 steps from -127 to 127.
_Q8_BLOCK, _Q8_MOST = 32, 127


def fits(kind: GgmlType, row_values: int) -> bool:
    """Whether rows of this length divide into the type's blocks."""
    return row_values % gguf.GGML_QUANT_SIZES[kind][0] == 0


def quantize(values: Floats, kind: GgmlType, importance: Floats | None = None) -> NDArray[np.generic]:
    """Rows of `values` at `kind`; `importance` weighs the columns' errors. Raises InvalidInput for what cannot be."""
    if kind in (GgmlType.F32, GgmlType.F16, GgmlType.BF16):
        return gguf.quants.quantize(values, kind)
    library = _library()
    if library is not None:
        return _by_library(library, np.ascontiguousarray(values, dtype=np.float32), kind, importance)
    try:
        return gguf.quants.quantize(values, kind)
    except NotImplementedError as error:
        raise InvalidInput(
            "--to", f"{kind.name} needs llama.cpp's quantizer; install {_WHEEL} or choose q8_0"
        ) from error


def quantize_rows(values: Floats) -> Raw:
    """Rows of `values` at Q8_0, all blocks of a row at one scale: the largest number is 127. No value is clipped."""
    rows, columns = values.shape
    scales = (np.abs(values).max(axis=1, keepdims=True) / _Q8_MOST).astype(np.float16)
    # A scale that was rounded down would not reach the largest number.
    too_small = scales.astype(np.float32) * _Q8_MOST < np.abs(values).max(axis=1, keepdims=True)
    scales = np.where(too_small, np.nextafter(scales, np.float16(np.inf)), scales)
    divisors = np.where(scales > 0, scales, 1).astype(np.float32)
    steps = np.rint(values / divisors).astype(np.int8)
    blocks = np.empty((rows, columns // _Q8_BLOCK), dtype=[("d", "<f2"), ("qs", "i1", _Q8_BLOCK)])
    blocks["d"] = scales
    blocks["qs"] = steps.reshape(rows, -1, _Q8_BLOCK)
    return blocks.view(np.uint8).reshape(rows, -1)


def dequantize(raw: NDArray[np.generic], kind: GgmlType) -> Floats:
    """The numbers that stored rows stand for."""
    return np.asarray(gguf.quants.dequantize(raw, kind), dtype=np.float32)


def quantizer_version() -> str:
    """Which quantizer is at work, for the lineage."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"ggml of {_WHEEL} {version(_WHEEL)}"
    except PackageNotFoundError:
        return f"gguf {version('gguf')}"


def _by_library(library: ctypes.CDLL, values: Floats, kind: GgmlType, importance: Floats | None) -> Raw:
    rows, columns = values.shape
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    raw = np.empty((rows, columns // block * block_bytes), dtype=np.uint8)
    weights = None if importance is None else np.ascontiguousarray(importance, dtype=np.float32)
    written = library.ggml_quantize_chunk(
        int(kind),
        values.ctypes.data,
        raw.ctypes.data,
        0,
        rows,
        columns,
        None if weights is None else weights.ctypes.data,
    )
    assert written == raw.nbytes
    return raw


@cache
def _library() -> ctypes.CDLL | None:
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or spec.origin is None:
        return None
    for path in sorted(Path(spec.origin).parent.glob("*.so")):
        library = ctypes.CDLL(str(path))
        if hasattr(library, "ggml_quantize_chunk"):
            # ggml.h: size_t ggml_quantize_chunk(type, src, dst, start, nrows, n_per_row, imatrix)
            library.ggml_quantize_chunk.restype = ctypes.c_size_t
            pointer, count = ctypes.c_void_p, ctypes.c_int64
            library.ggml_quantize_chunk.argtypes = [
                ctypes.c_int,
                pointer,
                pointer,
                count,
                count,
                count,
                pointer,
            ]
            return library
    return None
