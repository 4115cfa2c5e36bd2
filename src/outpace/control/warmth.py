"""Weights of sleepers kept in the page cache: looked at now and then, and read in again where the kernel took them."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

import structlog

from outpace.control.served import Served
from outpace.control.threads import in_thread
from outpace.engines.pagecache import Resident, read_in
from outpace.values.clock import Clock

_LOG = structlog.get_logger()
# Looking costs a millisecond per gigabyte.
_LOOK_EVERY_S = 20.0


def weights_to_cache(deployments: Iterable[Served]) -> list[str]:
    """Weights of those that want them kept in memory; a replica that runs keeps its own."""
    paths = [
        served.require_resolved().artifact_path
        for served in deployments
        if served.is_here and served.wanted.spec.replicas.stands_by.cached and not served.is_companion
    ]
    return [path for path in paths if path is not None]


class Warmth:
    """Files that shall be in memory, and how much of each was at the last look. On control's loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._looked_s = float("-inf")
        self._looking: asyncio.Task[None] | None = None
        self.seen: dict[str, Resident] = {}

    def keep(self, paths: Iterable[str]) -> None:
        """These shall be in memory; reads in what is missing, in a thread, when it is time to look."""
        wanted = sorted(set(paths))
        is_new = any(path not in self.seen for path in wanted)
        now_s = self._clock.monotonic_s()
        if self._looking is not None and not self._looking.done():
            return
        if not is_new and now_s - self._looked_s < _LOOK_EVERY_S:
            return
        self._looked_s = now_s
        self.seen = {path: self.seen.get(path, Resident(0, 0)) for path in wanted}
        if wanted:
            self._looking = asyncio.create_task(self._look(wanted))

    def close(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()

    async def _look(self, paths: list[str]) -> None:
        for path in paths:
            try:
                seen = await in_thread(read_in, Path(path))
            except OSError as error:
                _LOG.warning("weights_not_cached", path=path, reason=str(error))
                continue
            self.seen[path] = seen
            if seen.read_bytes:
                _LOG.info("weights_read_in", path=path, read_bytes=seen.read_bytes)
            if seen.resident_bytes < seen.file_bytes:
                _LOG.warning("weights_too_large_to_cache", path=path, file_bytes=seen.file_bytes)
