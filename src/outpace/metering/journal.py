"""The journal as its worker writes it: append-only, one write per record, nothing settled ever dropped.

`<boot>.jsonl` is locked for as long as its worker lives, also when later parts `<boot>.1.jsonl`, … have
followed it: whoever can lock it knows that the worker is dead.
"""

import fcntl
import os
import threading
from pathlib import Path

from outpace.metering.boot import check_boot_id
from outpace.values import records
from outpace.values.errors import Overloaded
from outpace.values.records import LoadSeen, Progressed, Record, Reserved, Settled
from outpace.values.units import MIB

PART_BYTES = 64 * MIB
SYNC_EVERY_S = 1.0
# Refusals and loads that wait for a disk with room; above that they are counted in `num_dropped`.
_MOST_WAITING = 10_000


class JournalUnwritable(Overloaded):
    """Use could not be recorded, so no new work is accepted; nothing that ran is lost."""


class JournalWriter:
    """Writes the journal of one life of a worker.

    When the disk refuses, a `Reserved` raises JournalUnwritable; every other record is kept in memory and
    written, by the next `write` or within `sync_every_s`, as soon as the disk takes it. What waits is bounded
    by the requests in flight (a newer mark replaces an older one) plus 10,000 refusals and loads.
    """

    def __init__(
        self,
        folder: Path,
        boot_id: str,
        *,
        sync_every_s: float | None = SYNC_EVERY_S,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self.boot_id = check_boot_id(boot_id)
        self._folder = folder
        self._part_bytes = part_bytes
        self._part = 0
        self._life_fd = _create_locked(folder, boot_id)
        self._fd = self._life_fd
        self._size_bytes = 0
        self._is_torn = False
        self._waiting: dict[object, bytes] = {}
        self._lock = threading.Lock()
        self._is_dirty = threading.Event()
        self._is_closing = threading.Event()
        # Why the disk refused last; None when the journal is well.
        self.failure: str | None = None
        # Refusals and loads that were given up while the disk refused.
        self.num_dropped = 0
        self._syncing = _start_syncing(self, sync_every_s) if sync_every_s is not None else None

    @property
    def path(self) -> Path:
        """The part that is written now."""
        return self._folder / part_name(self.boot_id, self._part)

    @property
    def num_waiting(self) -> int:
        """Records that are in memory only, because the disk refused them."""
        return len(self._waiting)

    def write(self, record: Record) -> None:
        """Append one record. Raises JournalUnwritable for a Reserved that the disk did not take."""
        line = records.encode(record)
        with self._lock:
            if self._waiting:
                self._write_waiting()
            if not self._waiting and self._append(line):
                return
            if isinstance(record, Reserved):
                raise JournalUnwritable(
                    "Use cannot be recorded now, so no new work is accepted; try again later.",
                    retry_after_s=5.0,
                )
            self._keep(record, line)

    def sync(self) -> None:
        """Write what waits and put all of it on the disk; blocks for as long as the disk needs."""
        with self._lock:
            self._write_waiting()
            self._is_dirty.clear()
            if self._waiting:
                self._is_dirty.set()
            fd = os.dup(self._fd)
        try:
            _sync_to_disk(fd)
        except OSError as error:
            self.failure = error.strerror
        finally:
            os.close(fd)

    def close(self) -> None:
        """Write what waits, sync, and let go: from now on the worker counts as dead.

        Raises JournalUnwritable, and stays open, when records would be lost by closing.
        """
        if self._syncing is not None:
            self._is_closing.set()
            self._is_dirty.set()
            self._syncing.join()
            self._syncing = None
        self.sync()
        with self._lock:
            if self._waiting:
                raise JournalUnwritable(f"{len(self._waiting)} records wait for the disk: {self.failure}.")
            for fd in {self._fd, self._life_fd}:
                os.close(fd)

    def _write_waiting(self) -> None:
        for key, line in list(self._waiting.items()):
            if not self._append(line):
                return
            del self._waiting[key]

    def _keep(self, record: Record, line: bytes) -> None:
        self._is_dirty.set()
        if isinstance(record, Settled):
            self._waiting[(Settled, record.request_id)] = line
        elif isinstance(record, Progressed):
            self._waiting[(Progressed, record.request_id)] = line
        elif isinstance(record, LoadSeen):
            self._waiting[LoadSeen] = line
        elif len(self._waiting) < _MOST_WAITING:
            self._waiting[object()] = line
        else:
            self.num_dropped += 1

    def _append(self, line: bytes) -> bool:
        if self._size_bytes >= self._part_bytes:
            self._begin_part()
        if self._is_torn:
            line = b"\n" + line
        try:
            num_written = os.write(self._fd, line)
        except OSError as error:
            return self._refused(error.strerror)
        if num_written != len(line):
            self._cut_back(num_written)
            return self._refused("No space left on device")
        self._size_bytes += num_written
        self._is_torn = False
        self.failure = None
        if not self._is_dirty.is_set():
            self._is_dirty.set()
        return True

    def _refused(self, reason: str | None) -> bool:
        self.failure = reason or "write failed"
        return False

    def _cut_back(self, num_written: int) -> None:
        try:
            os.ftruncate(self._fd, self._size_bytes)
        except OSError:
            # A newline will end the torn line; readers skip and report it.
            self._is_torn = True
            self._size_bytes += num_written

    def _begin_part(self) -> None:
        name = self._folder / part_name(self.boot_id, self._part + 1)
        try:
            _sync_to_disk(self._fd)
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            # The present part goes on growing; the next write tries again.
            self.failure = error.strerror
            return
        if self._fd != self._life_fd:
            os.close(self._fd)
        self._fd, self._part, self._size_bytes, self._is_torn = fd, self._part + 1, 0, False

    def _sync_until_closed(self, every_s: float) -> None:
        while not self._is_closing.is_set():
            self._is_dirty.wait()
            self._is_closing.wait(every_s)
            self.sync()


def part_name(boot_id: str, part: int) -> str:
    """File name of one part of a worker's journal."""
    return f"{boot_id}.{part}.jsonl" if part else f"{boot_id}.jsonl"


def _create_locked(folder: Path, boot_id: str) -> int:
    """A new file, locked before it has its name: nobody can see it and take its worker for dead."""
    unnamed = folder / f".{boot_id}.new"
    fd = os.open(unnamed, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Unlike rename, link refuses a name that exists.
        os.link(unnamed, folder / part_name(boot_id, 0))
    except BaseException:
        os.close(fd)
        raise
    finally:
        unnamed.unlink()
    return fd


def _start_syncing(writer: JournalWriter, every_s: float) -> threading.Thread:
    thread = threading.Thread(
        target=writer._sync_until_closed, args=(every_s,), name="journal-sync", daemon=True
    )
    thread.start()
    return thread


def _sync_to_disk(fd: int) -> None:
    # fdatasync also writes the new length; macOS lacks it.
    getattr(os, "fdatasync", os.fsync)(fd)
