"""Converts one GGUF: `python -m outpace.engines.openvino_convert WEIGHTS FOLDER`. Says in one line why not."""

import ctypes
import signal
import sys
from pathlib import Path

from outpace.engines.openvino_library import convert

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Convert, or end with status 1 and the reason on stderr."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    weights, folder = map(Path, sys.argv[1:])
    try:
        convert(weights, folder)
    except (RuntimeError, IndexError, KeyError, ValueError) as error:
        raise SystemExit(" ".join(str(error).split())[:400]) from error


if __name__ == "__main__":
    main()
