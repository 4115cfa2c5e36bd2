"""Starts llama.cpp's process: finds its OpenMP (a bare Debian lacks libgomp), and tells it how long to spin."""

import ctypes
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

from outpace.engines import child, memory_ahead
from outpace.engines.llamacpp_config import LlamaConfig

_OPENMP = "libgomp.so.1"
_SEARCH = "LD_LIBRARY_PATH"
# Its threads wait for each other hundreds of times a token. GNU's OpenMP spins 1 to 3 ms each time before it sleeps:
# beside one other busy process, even of lower priority, a request falls from 110 to 4 tokens/s. With short spins it
# keeps 30, and alone it is as fast (docs/lab/LOG.md, 2026-11-29). LLVM's sleeps early by itself.
_SPINS = {"GOMP_SPINCOUNT": "1000"}
# Where the wheel `cmeel-libomp` puts LLVM's OpenMP, which goes by libgomp's name too.
_WHEEL_LIBRARIES = Path("cmeel.prefix/lib")


def main() -> None:
    """Become `llamacpp_child`."""
    _require_openmp()
    config = child.read_config(LlamaConfig)
    memory_ahead.take(allocated_bytes(config))
    child.phases.ended("memory")
    serve = prepare().serve
    child.phases.ended("import")
    serve(config)


def allocated_bytes(config: LlamaConfig) -> int:
    """What the replica allocates itself: its weights are mapped, and taking their size too would drive them out."""
    try:
        return config.memory_bytes - Path(config.model_path).stat().st_size
    except OSError:
        # The child says what is wrong with the weights.
        return 0


def prepare() -> ModuleType:
    """Import llama.cpp."""
    _require_openmp()
    return importlib.import_module("outpace.engines.llamacpp_child")


def _require_openmp() -> None:
    """Start over once with the wheel's OpenMP when the system has none; it reads its settings when it is loaded."""
    set_spins()
    folder = bundled_openmp(sys.path)
    if folder is not None and not _is_loadable(_OPENMP):
        searched = [str(folder), *filter(None, [os.environ.get(_SEARCH)])]
        # The loader reads the variable when a program starts, so only a new start sees it.
        os.execve(sys.executable, sys.orig_argv, {**os.environ, _SEARCH: ":".join(searched)})


def set_spins() -> None:
    """Let threads sleep early, unless whoever started us has said how they shall wait."""
    if "OMP_WAIT_POLICY" in os.environ:
        return
    for name, value in _SPINS.items():
        os.environ.setdefault(name, value)


def bundled_openmp(search: list[str]) -> Path | None:
    """The folder of the wheel's library below one of `search`; None when it is not installed."""
    folders = (Path(folder) / _WHEEL_LIBRARIES for folder in search if folder)
    return next((folder for folder in folders if (folder / _OPENMP).is_file()), None)


def _is_loadable(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
