"""OpenVINO's files at INT8 or INT4, out of a GGUF: read by OpenVINO GenAI, compressed by NNCF, in a process of its own.

`python -m outpace.lab.openvino_maker GGUF FOLDER FORMAT`: `step N OF` per step on stdout. The only user of nncf.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from outpace.lab.apart import run_steps
from outpace.precision.artifacts import scratch_beside
from outpace.precision.gguf_maker import Report, make_gguf
from outpace.precision.recipes import recipe

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
    run_steps(
        f"OpenVINO did not make {to}", report, "outpace.lab.openvino_maker", str(whole), str(target), to
    )


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
        print(f"step 2 {_STEPS}", flush=True)
        model = nncf.compress_weights(openvino.Core().read_model(Path(whole) / _MODEL), **_settings(nncf, to))
        print(f"step 3 {_STEPS}", flush=True)
        openvino.save_model(model, folder / _MODEL)
        for path in Path(whole).glob("openvino_*tokenizer.*"):
            (folder / path.name).write_bytes(path.read_bytes())
    print(f"step 4 {_STEPS}", flush=True)


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
