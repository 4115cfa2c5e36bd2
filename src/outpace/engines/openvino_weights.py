"""Weights as OpenVINO reads them: a GGUF is converted once, in a process of its own, and kept among the artifacts."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import msgspec

from outpace.engines.openvino_config import OpenVinoConfig
from outpace.precision.artifacts import Lineage, MadeStore, digest_of
from outpace.values.errors import WeightsInvalid

MODEL_FILE = "openvino_model.xml"
_LONGEST_CONVERSION_S = 3600.0
# Of what is made of the library's files (`openvino_library.lay_out`); files of an earlier one are made again.
_LAYOUT = 2


def with_draft_folder(config: OpenVinoConfig, scratch: Path) -> OpenVinoConfig:
    """The configuration with the draft model, if there is one, as OpenVINO's files. Raises as `openvino_folder`."""
    if not config.draft_path:
        return config
    own = msgspec.structs.replace(config, model_path=config.draft_path, model=Path(config.draft_path).stem)
    return msgspec.structs.replace(config, draft_path=str(openvino_folder(own, scratch)))


def openvino_folder(config: OpenVinoConfig, scratch: Path) -> Path:
    """The folder with OpenVINO's files for the weights of `config`, converted when they are a GGUF.

    Without a place among the artifacts the result lies in `scratch`. Raises WeightsInvalid and StorageFailed.
    """
    weights = Path(config.model_path)
    if weights.is_dir():
        if not (weights / MODEL_FILE).is_file():
            raise WeightsInvalid(f"{weights.name} holds no {MODEL_FILE}; give a GGUF or OpenVINO's files")
        return weights
    _require_gguf(weights)
    if not config.artifacts_dir:
        _convert(weights, scratch)
        return scratch
    lineage = Lineage(
        model=config.model,
        source_sha256=digest_of(weights),
        source_format="gguf",
        format="openvino",
        tool=f"openvino-genai {version('openvino-genai')}, layout {_LAYOUT}",
    )
    store = MadeStore(Path(config.artifacts_dir))
    # Wide formats stay as they are, narrow ones are widened at most to 8 bit.
    needed_bytes = 2 * weights.stat().st_size
    return store.make(lineage, needed_bytes, lambda folder: _convert(weights, folder)).path


def _convert(weights: Path, folder: Path) -> None:
    argv = (sys.executable, "-m", "outpace.engines.openvino_convert", str(weights), str(folder))
    # Its own process: converting takes several times the memory of serving.
    done = subprocess.run(argv, capture_output=True, timeout=_LONGEST_CONVERSION_S, check=False)
    if done.returncode != 0 or not (folder / MODEL_FILE).is_file():
        words = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason was given"]
        reason = words[-1].replace(str(weights), weights.name)
        raise WeightsInvalid(f"OpenVINO cannot read {weights.name}: {reason}")


def _require_gguf(weights: Path) -> None:
    try:
        with weights.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        missing = WeightsInvalid(f"{weights.name} cannot be read: {error.strerror}")
        missing.code = "weights_missing"
        raise missing from error
    if magic != b"GGUF":
        raise WeightsInvalid(f"{weights.name} is no GGUF file; pull the model again")
