"""Exclusive locks on single rows of a shared file; the kernel frees them when their holder dies."""

import fcntl
import os
import struct
import sys
import threading

from outpace.values.clock import sleep_blocking
from outpace.values.errors import Overloaded

# A row is held for microseconds. A holder that was preempted gets about one second to go on.
_NUM_YIELDS = 200
_NUM_NAPS = 2000
_NAP_S = 0.0005
_HELD = (BlockingIOError, PermissionError)  # EAGAIN; on some systems EACCES
_IS_LINUX = sys.platform == "linux"
# Linux: locks of the open file. Unlike POSIX locks they also exclude two openings in one process, and are not
# lost when some other descriptor of the same file is closed.
_SET_LOCK: int = fcntl.F_OFD_SETLK if _IS_LINUX else fcntl.F_SETLK


class RowLocks:
    """Locks of one open file; `acquire` and `release` by row number, between processes and threads."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._thread = threading.Lock()
        self._locking: dict[int, bytes] = {}
        self._unlocking: dict[int, bytes] = {}

    def acquire(self, row: int) -> None:
        """Take the row. Raises Overloaded when its holder does not let go for about a second."""
        call = self._locking.get(row) or self._prepare(row)
        self._thread.acquire()
        try:
            fcntl.fcntl(self._fd, _SET_LOCK, call)
        except OSError as error:
            try:
                self._wait(call, error)
            except BaseException:
                self._thread.release()
                raise

    def release(self, row: int) -> None:
        """Let the row go."""
        try:
            fcntl.fcntl(self._fd, _SET_LOCK, self._unlocking[row])
        finally:
            self._thread.release()

    def _prepare(self, row: int) -> bytes:
        self._unlocking[row] = _flock(fcntl.F_UNLCK, row)
        return self._locking.setdefault(row, _flock(fcntl.F_WRLCK, row))

    def _wait(self, call: bytes, error: OSError) -> None:
        for attempt in range(_NUM_YIELDS + _NUM_NAPS):
            if not isinstance(error, _HELD):
                raise error
            os.sched_yield() if attempt < _NUM_YIELDS else sleep_blocking(_NAP_S)
            try:
                fcntl.fcntl(self._fd, _SET_LOCK, call)
            except OSError as again:
                error = again
            else:
                return
        raise Overloaded("Another worker holds this key's counters; try again.", retry_after_s=1.0)


def _flock(kind: int, row: int) -> bytes:
    """`struct flock` for one byte per row, as Linux orders it, and as the BSDs and macOS do."""
    if _IS_LINUX:
        return struct.pack("hhqqi4x", kind, os.SEEK_SET, row, 1, 0)
    return struct.pack("qqihh", row, 1, 0, kind, os.SEEK_SET)
