"""FP8 checkpoints in the compressed-tensors layout that vLLM loads: E4M3 weights, activations scaled at run time.

Layout: compressed-tensors' `float-quantized` format, scheme FP8_DYNAMIC of llm-compressor: each linear weight at
`float8_e4m3fn` beside `weight_scale`, one scale per output channel; no calibration data is needed. Written with
safetensors and ml_dtypes, because the package itself needs torch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from outpace.precision.checkpoint import Tensor
from outpace.precision.compressed import Report, as_scale, make_compressed, rounded_scale

# Largest finite value of E4M3 (OCP OFP8, section 5.2).
E4M3_MAX = 448.0
# Three bits of mantissa: rounding is off by at most half of the last one; below 2^-6 steps are 2^-9.
RELATIVE_BOUND = 2.0**-4
ABSOLUTE_BOUND = 2.0**-10
# Rows of zeros and of numbers next to nothing divide by this.
_SMALLEST_SCALE = 2.0**-100


def make_fp8_dynamic(source: Path, target: Path, report: Report = lambda done, total: None) -> None:
    """Write the checkpoint folder `source` at FP8 to the empty folder `target`. Raises as `make_compressed` does."""
    make_compressed(source, target, Fp8Dynamic(), report)


class Fp8Dynamic:
    """The scheme FP8_DYNAMIC."""

    def compress(self, name: str, values: NDArray[np.float32]) -> Mapping[str, Tensor]:
        weight, scale = quantize_channels(values)
        return {"weight": weight, "weight_scale": as_scale(scale)}

    def keep(self, name: str, values: Tensor) -> Tensor:
        return values

    def config(self) -> dict[str, Any]:
        weights = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False}
        activations = {
            "num_bits": 8, "type": "float", "strategy": "token", "symmetric": True, "dynamic": True,
        }  # fmt: skip
        return {"format": "float-quantized", "weights": weights, "input_activations": activations}


def quantize_channels(values: NDArray[np.float32]) -> tuple[Tensor, NDArray[np.float32]]:
    """E4M3 values and one scale per row, (rows, 1), rounded to BF16 as it will be stored."""
    largest = np.abs(values).max(axis=1, keepdims=True)
    scale = rounded_scale(np.maximum(largest / E4M3_MAX, _SMALLEST_SCALE))
    # A scale that BF16 rounded down would carry the largest value over the edge, where E4M3 has NaN.
    fitted = np.clip(values / scale, -E4M3_MAX, E4M3_MAX)
    return fitted.astype(ml_dtypes.float8_e4m3fn), scale


def dequantize_channels(weight: Tensor, scale: Tensor) -> NDArray[np.float32]:
    """The numbers that an FP8 matrix stands for."""
    return np.asarray(weight.astype(np.float32) * scale.astype(np.float32), dtype=np.float32)


def error_bound(values: NDArray[np.float32], scale: Tensor) -> NDArray[np.float32]:
    """How far each dequantized value may be off: half a step, and 2^-8 where BF16 rounded the largest's scale down."""
    edge = np.abs(values) * 2.0**-8
    bound = np.maximum(np.abs(values) * RELATIVE_BOUND, ABSOLUTE_BOUND * scale.astype(np.float32)) + edge
    return np.asarray(bound, dtype=np.float32)
