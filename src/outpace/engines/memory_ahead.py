"""Memory that a process takes from the kernel ahead of its need, so that a start does not wait for pages to be cleared.

A fresh page costs a fault and its clearing: 0.6 s for the 755 MB that llama.cpp's KV cache has by default. What was
written once and given back stays with the allocator, and is found there by the next one who asks. glibc only, by
`mallopt(3)`; with another C library nothing happens.
"""

import ctypes

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_TRIM_BYTES, _MMAPS = 128 * 1024, 65_536
_NEVER_TRIM = 2**31 - 1
# glibc's own bound, of eight for each core, is far above what an engine's threads need.
_ARENAS = 16


class _State:
    is_taken = False


def take(num_bytes: int) -> None:
    """Have so many bytes at hand for this process's next large allocations; `let_go` ends that."""
    libc = _glibc()
    if libc is None or num_bytes <= 0:
        return
    _State.is_taken = True
    # One heap for all threads, grown in place and never given back: else the engine's thread would not find them.
    for option, value in ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER_TRIM)):
        libc.mallopt(option, value)
    block = libc.malloc(num_bytes)
    if block:
        ctypes.memset(block, 1, num_bytes)
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


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        return None
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
    return libc
