"""Hugging Face checkpoint folders: safetensors shards and their config, read with every length checked."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from outpace.values.errors import WeightsInvalid

# safetensors' numpy reader knows no 8-bit floats, so tensors are mapped by these names once the file was checked.
_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
Tensor = NDArray[Any]
INDEX = "model.safetensors.index.json"


def shards(folder: Path) -> list[Path]:
    """The weight files of a checkpoint. Raises WeightsInvalid when there is none."""
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise WeightsInvalid(f"{folder.name} has no .safetensors file")
    return found


def config_of(folder: Path) -> dict[str, Any]:
    """The checkpoint's config.json. Raises WeightsInvalid."""
    try:
        return msgspec.json.decode((folder / "config.json").read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise WeightsInvalid(f"config.json of {folder.name} cannot be read: {error}") from error


def read_shard(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and values of every tensor of a shard, mapped, not loaded. Raises WeightsInvalid for a lying header."""
    try:
        # Checks that the tensors' offsets fill the file exactly and fit their shapes.
        with safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(header_bytes))
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsInvalid(f"{path.name} is not a sound safetensors file: {error}") from error
    content = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + header_bytes)
    header.pop("__metadata__", None)
    for name, entry in header.items():
        kind = _DTYPES.get(entry["dtype"])
        if kind is None:
            raise WeightsInvalid(
                f"{path.name}: tensor {name[:80]!r} has type {entry['dtype']}, which is not known"
            )
        begin, end = entry["data_offsets"]
        yield name, content[begin:end].view(kind).reshape(entry["shape"])


def as_numbers(values: Tensor, name: str) -> NDArray[np.float32]:
    """Values at F32. Raises WeightsInvalid when some are NaN or infinite."""
    numbers = np.asarray(values).astype(np.float32)
    if not np.isfinite(numbers).all():
        raise WeightsInvalid(f"tensor {name[:80]!r} holds NaN or infinity; get another copy")
    return numbers
