"""Becomes vLLM's server: weights made ready here, then on to the interpreter that has vLLM.

OUTPACE_VLLM_PYTHON names that interpreter; without it, it is this one.
"""

import os
import sys
from pathlib import Path

import msgspec

from outpace.engines import child
from outpace.engines.checkpoint_weights import checkpoint_folder
from outpace.values.errors import OutpaceError

_PYTHON = "OUTPACE_VLLM_PYTHON"
# Stands in the arguments for the draft model's folder.
DRAFT = "{draft}"


class VllmConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the process is told, besides its token. `arguments` are vLLM's own, without model and address."""

    socket_path: str
    model: str
    weights: str
    artifacts_dir: str = ""
    arguments: tuple[str, ...]
    # Weights of a draft model; empty: none.
    draft: str = ""


def main() -> None:
    """Check and make the weights, then start over as `vllm_child.py`."""
    config = child.read_config(VllmConfig)
    child.clear_socket(config.socket_path)
    try:
        folder = checkpoint_folder(Path(config.weights), config.model, config.artifacts_dir)
        draft = _draft(config)
    except OutpaceError as error:
        child.fail(error.code or "weights_invalid", error.message)
    arguments = ["--model", str(folder), *(word.replace(DRAFT, draft) for word in config.arguments)]
    told = {"socket_path": config.socket_path, "arguments": arguments}
    python = os.environ.get(_PYTHON) or sys.executable
    program = str(Path(__file__).with_name("vllm_child.py"))
    try:
        os.execv(python, [python, program, msgspec.json.encode(told).decode()])
    except OSError as error:
        child.fail("engine_missing", f"{_PYTHON} names {python}, which cannot be run: {error.strerror}")


def _draft(config: VllmConfig) -> str:
    if not config.draft:
        return ""
    return str(checkpoint_folder(Path(config.draft), "draft", config.artifacts_dir))


if __name__ == "__main__":
    main()
