"""What one replica of a model holds in memory, as far as it is known before it starts."""

from pathlib import Path

from outpace.catalogue.gguf import read
from outpace.catalogue.resolve import Resolved
from outpace.engines.openvino_config import graphs_that_guess
from outpace.fleet.sizing import MOST_SEQUENCES, REPLICA_EXTRA_BYTES
from outpace.planner.model_files import shape_of_file, shape_of_gguf
from outpace.precision.formats import kv_format
from outpace.precision.memory import kv_bytes_per_token
from outpace.values.units import MIB

# Its two processes and its library: 417 MB measured beside weights and keys (docs/lab/LOG.md 2026-11-25); a third
# process of about 160 MB comes with the first schema.
_EXTRA_BYTES = {"openvino": 576 * MIB}
# They keep room for so many full contexts, however many sequences share it.
_PAGED = frozenset({"openvino"})


def kv_bytes_of(found: Resolved) -> float:
    """Bytes of keys and values per token at 16 bit; 0 where the model's shape is not known."""
    shape = found.card.architecture if found.card else None
    if shape is None and found.artifact_path is not None:
        path = found.artifact_path
        return _kv_bytes(path, found.model)
    return kv_bytes_per_token(shape, kv_format("FP16")) if shape else 0.0


def _kv_bytes(path: Path, model: str) -> float:
    shape = shape_of_file(path) if path.is_dir() else shape_of_gguf(read(path), model)
    return kv_bytes_per_token(shape, kv_format("FP16")) if shape else 0.0


def replica_bytes(
    found: Resolved,
    engine: str,
    artifact: Path | None,
    parallel: int,
    context_tokens: int,
    *,
    guesses: bool = False,
    draft_path: str = "",
) -> int:
    """Weights where they are known, the KV cache at 16 bit, both as often as it holds them, and what is beside them.

    `guesses`: it holds them once more for the requests that guess, and small weights twice more. A draft model has
    weights and a KV cache of its own.
    """
    weights_bytes = artifact.stat().st_size if artifact is not None and artifact.is_file() else 0
    sequences = min(parallel, MOST_SEQUENCES) if engine in _PAGED else parallel
    extra_bytes = _EXTRA_BYTES.get(engine, REPLICA_EXTRA_BYTES)
    kv_bytes = sequences * context_tokens * kv_bytes_of(found)
    held_bytes = weights_bytes + kv_bytes
    if guesses:
        held_bytes += graphs_that_guess(weights_bytes) * weights_bytes + kv_bytes
    if draft_path:
        held_bytes += _draft_bytes(Path(draft_path), sequences * context_tokens)
    return int(held_bytes + extra_bytes)


def _draft_bytes(path: Path, kv_tokens: int) -> float:
    if path.is_dir():
        weights_bytes = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    else:
        weights_bytes = path.stat().st_size if path.is_file() else 0
    return weights_bytes + kv_tokens * _kv_bytes(path, path.stem)
