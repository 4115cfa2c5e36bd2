"""The shared counters file: its layout, how it is opened, and when it may be made anew.

All words are native 64-bit integers written with one store each, so that a reader or a kill never sees half
of one. Words of the header, then a table of column owners, then one row per slot:
`requests bucket, tokens bucket, base, settled 0, reserved 0, settled 1, reserved 1, …`.
"""

import fcntl
import hashlib
import mmap
import os
import struct
from pathlib import Path

from outpace.values.errors import Conflict

NUM_SLOTS = 65_536
NUM_COLUMNS = 64
WORD_BYTES = 8

MAGIC, LAYOUT, MACHINE, COLUMNS_USED, SLOTS_USED, LOADED = range(6)
OWNERS = 64
# Owner of a column: claimed (0 or 1), then the boot id in bytes.
OWNER_WORDS = 8
OWNER_BYTES = (OWNER_WORDS - 1) * WORD_BYTES
ROWS = OWNERS + NUM_COLUMNS * OWNER_WORDS
REQUESTS_BUCKET, TOKENS_BUCKET, BASE, FIRST_COLUMN = range(4)
ROW_WORDS = FIRST_COLUMN + 2 * NUM_COLUMNS + 5

_MAGIC = struct.unpack("<q", b"outpace\x01")[0]
# Changes whenever the meaning of a word does.
_LAYOUT = struct.unpack("<q", struct.pack("<HHHH", 1, NUM_COLUMNS, ROW_WORDS, NUM_SLOTS - 1))[0]
_FILE_BYTES = (ROWS + NUM_SLOTS * ROW_WORDS) * WORD_BYTES
_MACHINE_BOOT = Path("/proc/sys/kernel/random/boot_id")


def row_word(slot: int) -> int:
    """Index of the first word of a key's row."""
    return ROWS + slot * ROW_WORDS


def column_word(slot: int, column: int) -> int:
    """Index of the settled sum of a column in a row; the reserved sum follows it."""
    return ROWS + slot * ROW_WORDS + FIRST_COLUMN + 2 * column


class CountersFile:
    """An open counters file as `words`; it holds a shared lock, so that nobody makes it anew meanwhile."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, _FILE_BYTES)
        self.bytes = memoryview(self._map)
        self.words = self.bytes.cast("q")

    def close(self) -> None:
        """Let go of the file; the numbers stay."""
        self.words.release()
        self.bytes.release()
        self._map.close()
        os.close(self.fd)


def open_file(path: Path) -> CountersFile:
    """Open the file, making it (anew) when it is missing, of another layout, or from before a reboot.

    Raises Conflict when it cannot be used as it is and another process uses it.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            fcntl.flock(fd, fcntl.LOCK_SH)
            problem = _problem(fd)
            if problem is None:
                return CountersFile(fd)
            _make_anew(fd, path, problem)
    except BaseException:
        os.close(fd)
        raise


def _problem(fd: int) -> str | None:
    if os.fstat(fd).st_size != _FILE_BYTES:
        return "has another layout"
    magic, layout, machine = struct.unpack("qqq", os.pread(fd, 3 * WORD_BYTES, 0))
    if magic != _MAGIC or layout != _LAYOUT:
        return "has another layout"
    return None if machine == _machine() else "is from before this machine's last start"


def _make_anew(fd: int, path: Path, problem: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if _problem(fd) is None:
            return  # the process that held it has just made it
        raise Conflict(
            f"{path} {problem} and is in use by another version of Outpace. Run `outpace down` first."
        ) from None
    if _problem(fd) is None:
        return
    os.ftruncate(fd, 0)
    os.ftruncate(fd, _FILE_BYTES)
    os.pwrite(fd, struct.pack("qq", _LAYOUT, _machine()), LAYOUT * WORD_BYTES)
    # Last: a file without it is unfinished and made again.
    os.pwrite(fd, struct.pack("q", _MAGIC), MAGIC * WORD_BYTES)


def _machine() -> int:
    """This life of the machine: monotonic clocks and memory-mapped pages do not outlive it."""
    if not _MACHINE_BOOT.exists():
        return 0
    digest = hashlib.sha256(_MACHINE_BOOT.read_bytes()).digest()
    return int.from_bytes(digest[:7], "little")
