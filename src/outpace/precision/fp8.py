"""FP8 checkpoints in the compressed-tensors layout that vLLM loads: E4M3 weights, activations scaled at run time.

Layout: compressed-tensors' `float-quantized` format, scheme FP8_DYNAMIC of llm-compressor: each linear weight at
`float8_e4m3fn` beside `weight_scale`, one scale per output channel; no calibration data is needed. Written with
safetensors and ml_dtypes, because the package itself needs torch.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from outpace.precision.checkpoint import INDEX, Tensor, as_numbers, config_of, read_shard, shards
from outpace.values.errors import InvalidInput

# Largest finite value of E4M3 (OCP OFP8, section 5.2).
E4M3_MAX = 448.0
# Three bits of mantissa: rounding is off by at most half of the last one; below 2^-6 steps are 2^-9.
RELATIVE_BOUND = 2.0**-4
ABSOLUTE_BOUND = 2.0**-10
# Rows of zeros and of numbers next to nothing divide by this.
_SMALLEST_SCALE = 2.0**-100
_KEPT = ("lm_head", "embed_tokens", "norm", "router", "mlp.gate.")
_SIDE_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
Report = Callable[[int, int], None]


def make_fp8_dynamic(source: Path, target: Path, report: Report = lambda done, total: None) -> None:
    """Write the checkpoint folder `source` at FP8 to the empty folder `target`.

    Raises WeightsInvalid for files that lie or hold NaN, InvalidInput for a checkpoint that is quantized already.
    """
    config = config_of(source)
    if "quantization_config" in config:
        raise InvalidInput("model", f"{source.name} is quantized already; start from its 16-bit checkpoint")
    _copy_side_files(source, target)
    found = shards(source)
    index: dict[str, str] = {}
    ignored: list[str] = []
    for done, shard in enumerate(found):
        report(done, len(found))
        made: dict[str, Tensor] = {}
        for name, values in read_shard(shard):
            if not is_linear(name, values):
                as_numbers(values, name)
                ignored += [name.removesuffix(".weight")] if "lm_head" in name else []
                made[name] = np.ascontiguousarray(values)
                continue
            weight, scale = quantize_channels(as_numbers(values, name))
            made[name] = weight
            made[f"{name}_scale"] = scale.astype(ml_dtypes.bfloat16)
        save_file(made, target / shard.name, metadata={"format": "pt"})
        index |= dict.fromkeys(made, shard.name)
    report(len(found), len(found))
    if (source / INDEX).exists():
        (target / INDEX).write_bytes(msgspec.json.encode({"metadata": {}, "weight_map": index}))
    described = {**config, "quantization_config": quantization_config(sorted(set(ignored)) or ["lm_head"])}
    (target / "config.json").write_bytes(msgspec.json.format(msgspec.json.encode(described)))


def is_linear(name: str, values: Tensor) -> bool:
    """Whether a tensor is a linear layer's matrix that the scheme quantizes."""
    return values.ndim == 2 and name.endswith(".weight") and not any(part in name for part in _KEPT)


def quantize_channels(values: NDArray[np.float32]) -> tuple[Tensor, NDArray[np.float32]]:
    """E4M3 values and one scale per row, (rows, 1), rounded to BF16 as it will be stored."""
    largest = np.abs(values).max(axis=1, keepdims=True)
    exact = np.maximum(largest / E4M3_MAX, _SMALLEST_SCALE)
    scale = exact.astype(ml_dtypes.bfloat16).astype(np.float32)
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


def quantization_config(ignored: list[str]) -> dict[str, Any]:
    """What config.json says to the engine."""
    weights = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False}
    activations = {"num_bits": 8, "type": "float", "strategy": "token", "symmetric": True, "dynamic": True}
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {"targets": ["Linear"], "weights": weights, "input_activations": activations}
        },
        "ignore": ignored,
        "kv_cache_scheme": None,
    }


def _copy_side_files(source: Path, target: Path) -> None:
    for pattern in _SIDE_FILES:
        for path in source.glob(pattern):
            if path.name not in ("config.json", INDEX):
                shutil.copyfile(path, target / path.name)
