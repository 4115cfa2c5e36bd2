"""Starts llama.cpp's process where its shared libraries are not all on the machine: a bare Debian lacks libgomp."""

import ctypes
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

from outpace.engines import child

_OPENMP = "libgomp.so.1"
_SEARCH = "LD_LIBRARY_PATH"
# Where the wheel `cmeel-libomp` puts LLVM's OpenMP, which goes by libgomp's name too.
_WHEEL_LIBRARIES = Path("cmeel.prefix/lib")


def main() -> None:
    """Become `llamacpp_child`."""
    serve = prepare().main
    child.phases.ended("import")
    serve()


def prepare() -> ModuleType:
    """Import llama.cpp; first start over once with the wheel's OpenMP when the system has none."""
    folder = bundled_openmp(sys.path)
    if folder is not None and not _is_loadable(_OPENMP):
        searched = [str(folder), *filter(None, [os.environ.get(_SEARCH)])]
        # The loader reads the variable when a program starts, so only a new start sees it.
        os.execve(sys.executable, sys.orig_argv, {**os.environ, _SEARCH: ":".join(searched)})
    return importlib.import_module("outpace.engines.llamacpp_child")


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
