"""OpenVINO's files at INT8 or INT4, out of a GGUF: read by OpenVINO GenAI, compressed by NNCF, in a process of its own.

`python -m outpace.lab.openvino_maker GGUF FOLDER FORMAT`: one line of JSON per step on stdout. The only user of nncf.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from outpace.lab.replica import die_with_parent
from outpace.precision.artifacts import scratch_beside
from outpace.precision.gguf_maker import Report, make_gguf
from outpace.precision.recipes import recipe
from outpace.values.errors import EngineFailed

_MODEL = "openvino_model.xml"
_STEPS = 4
# Columns that share a scale at INT4; NNCF takes a smaller number where it does not divide.
_GROUP = 64


def make_openvino(source: Path, target: Path, to: str, report: Report) -> None:
    """Write model and tokenizer files at `to` into the folder `target`. Raises EngineFailed with the last words."""
    # OpenVINO's reader rounds what it reads: it gets the exact numbers, so that they are rounded once.
    whole = scratch_beside(target) / "weights.gguf"
    make_gguf(source, whole, recipe("f16"))
    report(1, _STEPS)
    process = subprocess.Popen(
        [sys.executable, "-m", "outpace.lab.openvino_maker", str(whole), str(target), to],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=die_with_parent,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if line.startswith("step "):
                report(int(line.split()[1]), _STEPS)
        words = process.stderr.read().strip().splitlines()
    if process.returncode != 0:
        raise EngineFailed(f"OpenVINO did not make {to}: {words[-1] if words else process.returncode}")


def main() -> None:
    """Make, or end with status 1 and the reason as the last line."""
    weights, folder, to = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    try:
        _compress(weights, folder, to)
    except (RuntimeError, ValueError, ImportError) as error:
        raise SystemExit(" ".join(str(error).split())[:400]) from error


def _compress(weights: Path, folder: Path, to: str) -> None:
    import nncf
    import openvino

    from outpace.engines.openvino_library import convert

    with tempfile.TemporaryDirectory(dir=weights.parent) as whole:
        convert(weights, Path(whole))
        print("step 2", flush=True)
        model = nncf.compress_weights(openvino.Core().read_model(Path(whole) / _MODEL), **_settings(nncf, to))
        print("step 3", flush=True)
        openvino.save_model(model, folder / _MODEL)
        for path in Path(whole).glob("openvino_*tokenizer.*"):
            (folder / path.name).write_bytes(path.read_bytes())
    print("step 4", flush=True)


def _settings(nncf: Any, to: str) -> dict[str, Any]:
    if to == "openvino-int8":
        return {"mode": nncf.CompressWeightsMode.INT8_ASYM}
    fallback = nncf.AdvancedCompressionParameters(group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST)
    return {
        "mode": nncf.CompressWeightsMode.INT4_SYM,
        "group_size": _GROUP,
        "ratio": 1.0,
        "advanced_parameters": fallback,
    }


if __name__ == "__main__":
    main()
