"""Memory taken ahead is resident, is what the next large allocation gets, and is given back."""

import subprocess
import sys

import pytest

_SCRIPT = """
import ctypes
from outpace.engines import memory_ahead

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

libc, size = ctypes.CDLL(None), 200 * 10**6
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
before = resident()
memory_ahead.take(size)
taken = resident() - before
block = libc.malloc(size - 10**6)
ctypes.memset(block, 1, size - 10**6)
used = resident() - before
libc.free(block)
memory_ahead.let_go()
memory_ahead.let_go()
left = resident() - before
print(taken // 10**6, used // 10**6, left // 10**6)
"""


def test_it_is_there_is_used_and_goes() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("resident memory is read from Linux's /proc")
    ran = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=60, check=True
    )
    taken, used, left = map(int, ran.stdout.split())
    assert taken >= 195
    assert used <= taken + 10
    assert left < 50


@pytest.mark.parametrize("num_bytes", [-1, 0, 1, 4096, 8192])
def test_next_to_nothing_is_taken_and_given_back(num_bytes: int) -> None:
    script = (
        f"from outpace.engines import memory_ahead as m; m.take({num_bytes}); m.take({num_bytes}); m.let_go()"
    )
    subprocess.run([sys.executable, "-c", script], timeout=60, check=True)
