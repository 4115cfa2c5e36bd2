"""Memory that a process takes from the kernel ahead of its need, so that a start does not wait for pages to be cleared.

A fresh page costs a fault and its clearing: 0.6 to 0.9 s for the 755 MB that llama.cpp's KV cache has by default, one
page after the other on one core. Taken here, on all cores and many pages a call, it is a quarter to a half of that.
What was taken and given back stays with the allocator, and is found there by the next one who asks. glibc only, by
`mallopt(3)`; with another C library nothing happens.
"""

import ctypes
import mmap
import os
from concurrent.futures import ThreadPoolExecutor

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_TRIM_BYTES, _MMAPS = 128 * 1024, 65_536
_NEVER_TRIM = 2**31 - 1
# glibc's own bound, of eight for each core, is far above what an engine's threads need.
_ARENAS = 16
# Linux 5.14: fault pages in for writing.
_MADV_POPULATE_WRITE = 23
_MOST_THREADS = 8


class _State:
    is_taken = False


def take(num_bytes: int) -> None:
    """Have so many bytes at hand for this process's next large allocations; `let_go` ends that.

    Nothing happens where something was taken already.
    """
    libc = _glibc()
    if libc is None or num_bytes <= 0 or _State.is_taken:
        return
    _State.is_taken = True
    # One heap for all threads, grown in place and never given back: else the engine's thread would not find them.
    for option, value in ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER_TRIM)):
        libc.mallopt(option, value)
    block = libc.malloc(num_bytes)
    if block:
        _fault_in(libc, block, num_bytes)
        libc.free(block)


def let_go() -> None:
    """Give back what was not used, and allocate as usual from now on; nothing happens where nothing was taken."""
    libc = _glibc()
    if libc is None or not _State.is_taken:
        return
    _State.is_taken = False
    for option, value in ((_M_ARENA_MAX, _ARENAS), (_M_MMAP_MAX, _MMAPS), (_M_TRIM_THRESHOLD, _TRIM_BYTES)):
        libc.mallopt(option, value)
    libc.malloc_trim(0)


def _fault_in(libc: ctypes.CDLL, block: int, num_bytes: int) -> None:
    start = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
    pages = max(0, block + num_bytes - start) // mmap.PAGESIZE
    if not pages:
        return
    num_threads = min(_MOST_THREADS, len(os.sched_getaffinity(0)))
    share = -(-pages // num_threads) * mmap.PAGESIZE
    end = start + pages * mmap.PAGESIZE
    with ThreadPoolExecutor(num_threads) as threads:
        done = threads.map(
            lambda at: libc.madvise(at, min(share, end - at), _MADV_POPULATE_WRITE), range(start, end, share)
        )
    if any(done):
        # An older kernel.
        ctypes.memset(block, 1, num_bytes)


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        return None
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc
