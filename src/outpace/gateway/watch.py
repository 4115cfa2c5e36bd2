"""Reads the snapshot that control writes; a missing or broken file never replaces a good one."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from outpace.values.clock import Clock
from outpace.values.snapshot import Snapshot, decode

_log = structlog.get_logger()

POLL_S = 0.2


class SnapshotWatch:
    """The newest valid snapshot; `on_change` is called with each new one."""

    def __init__(self, path: Path, clock: Clock, on_change: Callable[[Snapshot], None]) -> None:
        self._path = path
        self._clock = clock
        self._on_change = on_change
        self._seen: tuple[int, int, int] | None = None
        self.current = Snapshot(version=0, written_at=0.0)

    async def run(self) -> None:
        """Look at the file's identity five times a second for ever."""
        while True:
            self.look()
            await self._clock.sleep(POLL_S)

    def look(self) -> bool:
        """Read the file if it changed; True when a new snapshot was taken over."""
        try:
            status = self._path.stat()
            identity = (status.st_ino, status.st_mtime_ns, status.st_size)
            if identity == self._seen:
                return False
            snapshot = decode(self._path.read_bytes())
        except FileNotFoundError:
            return False
        except (OSError, msgspec.DecodeError) as error:
            _log.error("snapshot_unreadable", path=str(self._path), error=str(error))
            return False
        self._seen = identity
        self.current = snapshot
        self._on_change(snapshot)
        return True


async def wait_for_first(watch: SnapshotWatch, deadline_s: float) -> None:
    """Give control a moment to write the first snapshot, so that the first request is not a 401."""
    async with asyncio.timeout(deadline_s):
        while not watch.look():
            await asyncio.sleep(0.02)
