"""Weights as vLLM, SGLang and TensorRT-LLM read them: a GGUF is unpacked once to a Hugging Face folder and kept."""

import re
from importlib.metadata import version
from pathlib import Path

from outpace.precision.artifacts import Lineage, MadeStore, sha256_of
from outpace.precision.from_gguf import make_checkpoint
from outpace.precision.tokenizer_files import write_tokenizer
from outpace.values.errors import InvalidInput, WeightsInvalid

# The folder of an artifact is named after its content.
_DIGEST = re.compile(r"^[0-9a-f]{64}$")


def checkpoint_folder(weights: Path, model: str, artifacts_dir: str) -> Path:
    """`weights` when it is a checkpoint folder, else the folder that its GGUF unpacks to at 16 bit.

    Raises WeightsInvalid, StorageFailed, and InvalidInput for an architecture that is not unpacked.
    """
    if weights.is_dir():
        if not (weights / "config.json").is_file():
            raise WeightsInvalid(f"{weights.name} holds no config.json; give a Hugging Face folder or a GGUF")
        return weights
    if not artifacts_dir:
        raise InvalidInput("model", "a GGUF is unpacked among the artifacts, and none are here")
    name = weights.parent.name
    lineage = Lineage(
        model=model,
        source_sha256=name if _DIGEST.match(name) else sha256_of(weights),
        source_format="gguf",
        format="bf16-checkpoint",
        tool=f"outpace {version('outpace')}; unpacked with tokenizer",
    )

    def make(folder: Path) -> None:
        make_checkpoint(weights, folder)
        write_tokenizer(weights, folder)

    # At most from 4 bit to 16.
    return MadeStore(Path(artifacts_dir)).make(lineage, 4 * weights.stat().st_size, make).path
