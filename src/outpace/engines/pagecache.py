"""Weights in the page cache: how much of a file is there, and reading in what is missing. Linux."""

import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_MEMINFO = Path("/proc/meminfo")
_READ_BYTES = 8 * 1024 * 1024
# Of the memory that is free to be used: more would push out what others need, and itself.
LARGEST_SHARE = 0.5


class Resident(NamedTuple):
    """Of a file: its length, what of it is in memory, and what was read in for that."""

    file_bytes: int
    resident_bytes: int
    read_bytes: int = 0


def resident(path: Path) -> Resident:
    """How much of a file is in memory. Raises OSError."""
    with path.open("rb") as file:
        length = os.fstat(file.fileno()).st_size
        return Resident(length, length - sum(size for _, size in _missing(file.fileno(), length)))


def read_in(path: Path) -> Resident:
    """Bring a file into memory in the order in which it lies on the disk; one that is too large is left alone.

    Nothing is locked: the kernel may take the memory back when somebody needs it. Raises OSError.
    """
    with path.open("rb") as file:
        length = os.fstat(file.fileno()).st_size
        runs = list(_missing(file.fileno(), length))
        missing_bytes = sum(size for _, size in runs)
        if missing_bytes > LARGEST_SHARE * available_bytes():
            return Resident(length, length - missing_bytes)
        for start, size in runs:
            for at in range(start, start + size, _READ_BYTES):
                os.pread(file.fileno(), min(_READ_BYTES, start + size - at), at)
        return Resident(length, length, missing_bytes)


def available_bytes() -> int:
    """Memory that can be used without pushing anyone out, by the kernel's own estimate; 0 when it tells none."""
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)


def _missing(fd: int, length: int) -> Iterator[tuple[int, int]]:
    """Runs of pages that are not in memory: where each starts and its length."""
    if length == 0:
        return
    pages = -(-length // mmap.PAGESIZE)
    seen = (ctypes.c_ubyte * pages)()
    # A private writable mapping, because ctypes takes the address of nothing else; it is never written.
    with mmap.mmap(fd, length, access=mmap.ACCESS_COPY) as mapped:
        first = ctypes.c_char.from_buffer(mapped)
        failed = ctypes.CDLL(None, use_errno=True).mincore(
            ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(length), seen
        )
        del first
    if failed:
        raise OSError(ctypes.get_errno(), "mincore")
    yield from _runs(bytes(byte & 1 for byte in seen), length)


def _runs(is_there: bytes, length: int) -> Iterator[tuple[int, int]]:
    at = is_there.find(0)
    while at >= 0:
        end = is_there.find(1, at)
        end = len(is_there) if end < 0 else end
        start = at * mmap.PAGESIZE
        yield start, min(end * mmap.PAGESIZE, length) - start
        at = is_there.find(0, end)
