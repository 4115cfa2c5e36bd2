"""Checkpoint folders in the layout of compressed-tensors, which vLLM and transformers load: one walk, many schemes."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from outpace.precision.checkpoint import INDEX, Tensor, as_numbers, config_of, read_shard, shards
from outpace.values.errors import InvalidInput

_KEPT = ("lm_head", "embed_tokens", "norm", "router", "mlp.gate.")
_SIDE_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
# Shards done, shards in all.
Report = Callable[[int, int], None]


class Scheme(Protocol):
    """How the matrices of a checkpoint are stored, and what config.json says of it."""

    def compress(self, name: str, values: NDArray[np.float32]) -> Mapping[str, Tensor]:
        """The tensors that stand for the matrix of the layer `name`, by the ends of their names."""
        ...

    def keep(self, name: str, values: Tensor) -> Tensor:
        """A tensor that stays at the source's precision; a scheme may fold factors into it."""
        ...

    def config(self) -> dict[str, Any]:
        """`format` and the group's `weights` and `input_activations`, as compressed-tensors names them."""
        ...


def make_compressed(source: Path, target: Path, scheme: Scheme, report: Report) -> None:
    """Write the checkpoint folder `source` at `scheme` to the empty folder `target`.

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
            numbers = as_numbers(values, name)
            if is_linear(name, values):
                made |= _compressed(name.removesuffix(".weight"), numbers, scheme)
                continue
            ignored += [name.removesuffix(".weight")] if "lm_head" in name else []
            made[name] = np.ascontiguousarray(scheme.keep(name, values))
        save_file(made, target / shard.name, metadata={"format": "pt"})
        index |= dict.fromkeys(made, shard.name)
    report(len(found), len(found))
    if (source / INDEX).exists():
        (target / INDEX).write_bytes(msgspec.json.encode({"metadata": {}, "weight_map": index}))
    described = {
        **config,
        "quantization_config": _described(scheme.config(), sorted(set(ignored)) or ["lm_head"]),
    }
    (target / "config.json").write_bytes(msgspec.json.format(msgspec.json.encode(described)))


def is_linear(name: str, values: Tensor) -> bool:
    """Whether a tensor is a linear layer's matrix that schemes quantize."""
    return values.ndim == 2 and name.endswith(".weight") and not any(part in name for part in _KEPT)


def as_scale(scale: NDArray[np.float32]) -> Tensor:
    """Scales as they are stored."""
    return np.asarray(scale.astype(ml_dtypes.bfloat16))


def rounded_scale(exact: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scales as they will be read back, so that values are rounded against what is stored."""
    return np.asarray(exact.astype(ml_dtypes.bfloat16).astype(np.float32))


def _compressed(layer: str, numbers: NDArray[np.float32], scheme: Scheme) -> dict[str, Tensor]:
    return {
        f"{layer}.{end}": np.ascontiguousarray(stored)
        for end, stored in scheme.compress(layer, numbers).items()
    }


def _described(told: dict[str, Any], ignored: list[str]) -> dict[str, Any]:
    """What config.json says to the engine."""
    group = {
        "targets": ["Linear"],
        "weights": told["weights"],
        "input_activations": told["input_activations"],
    }
    return {
        "quant_method": "compressed-tensors",
        "format": told["format"],
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ignored,
        "kv_cache_scheme": None,
    }


def _copy_side_files(source: Path, target: Path) -> None:
    for pattern in _SIDE_FILES:
        for path in source.glob(pattern):
            if path.name not in ("config.json", INDEX):
                shutil.copyfile(path, target / path.name)
