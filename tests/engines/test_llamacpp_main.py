import os
import subprocess
import sys
from pathlib import Path

from outpace.engines.llamacpp_config import LlamaConfig
from outpace.engines.llamacpp_main import allocated_bytes, bundled_openmp


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
