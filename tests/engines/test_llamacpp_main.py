import os
import subprocess
import sys
from pathlib import Path

import pytest

from outpace.engines.llamacpp_config import LlamaConfig
from outpace.engines.llamacpp_main import allocated_bytes, bundled_openmp, set_spins


def test_the_wheels_openmp_is_found_and_is_one() -> None:
    folder = bundled_openmp(sys.path)
    assert folder is not None
    script = "import ctypes; ctypes.CDLL('libgomp.so.1').GOMP_parallel; print(open('/proc/self/maps').read())"
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "LD_LIBRARY_PATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert str(folder) in ran.stdout


def test_without_the_wheel_there_is_none(tmp_path: Path) -> None:
    assert bundled_openmp(["", str(tmp_path)]) is None


def test_memory_is_taken_for_all_but_the_mapped_weights(tmp_path: Path) -> None:
    weights = tmp_path / "weights.gguf"
    weights.write_bytes(bytes(700))
    config = LlamaConfig(
        socket_path="",
        model_path=str(weights),
        alias="m",
        parallel=1,
        context_tokens=512,
        threads=1,
        memory_bytes=1_000,
    )
    assert allocated_bytes(config) == 300
    weights.unlink()
    assert allocated_bytes(config) == 0


def test_threads_sleep_early_unless_the_user_says_how_they_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    set_spins()
    # What libgomp reads is the process's environment, not Python's copy of it.
    seen = subprocess.run(["printenv", "GOMP_SPINCOUNT"], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "1000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "77")
    set_spins()
    assert os.environ["GOMP_SPINCOUNT"] == "77"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    set_spins()
    assert "GOMP_SPINCOUNT" not in os.environ
