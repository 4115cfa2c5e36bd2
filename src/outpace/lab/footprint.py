"""What one replica of a model holds in memory, as far as it is known before it starts."""

from pathlib import Path

from outpace.catalogue.gguf import read
from outpace.catalogue.resolve import Resolved
from outpace.fleet.sizing import REPLICA_EXTRA_BYTES
from outpace.planner.model_files import shape_of_file, shape_of_gguf
from outpace.precision.formats import kv_format
from outpace.precision.memory import kv_bytes_per_token


def kv_bytes_of(found: Resolved) -> float:
    """Bytes of keys and values per token at 16 bit; 0 where the model's shape is not known."""
    shape = found.card.architecture if found.card else None
    if shape is None and found.artifact_path is not None:
        path = found.artifact_path
        shape = shape_of_file(path) if path.is_dir() else shape_of_gguf(read(path), found.model)
    return kv_bytes_per_token(shape, kv_format("FP16")) if shape else 0.0


def replica_bytes(found: Resolved, artifact: Path | None, kv_tokens: int) -> int:
    """Weights where they are known, the KV cache of so many tokens at 16 bit, and what is beside them."""
    weights_bytes = artifact.stat().st_size if artifact is not None and artifact.is_file() else 0
    return int(weights_bytes + kv_tokens * kv_bytes_of(found) + REPLICA_EXTRA_BYTES)
