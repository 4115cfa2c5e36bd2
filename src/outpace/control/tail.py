"""New journal records as they come, for metrics and signs of life; the ledger reads for itself."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path

from outpace.control.metrics import Metrics
from outpace.metering import BadLine, JournalFile, JournalReader, journal_files
from outpace.values.clock import Clock
from outpace.values.records import LoadSeen, Progressed, Record, Refused, Reserved, Settled

# Requests whose end has not been seen; more than that many cannot be in flight.
_MOST_OPEN = 200_000


class Tail:
    """Follows all journals from where they end now; what was written earlier belongs to earlier lives."""

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        metrics: Metrics,
        last_token_s: MutableMapping[str, float],
        learners: Sequence[Callable[[Reserved, Settled], None]],
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._metrics = metrics
        self._last_token_s = last_token_s
        self._learners = learners
        self._open: dict[str, Reserved] = {}
        self._loads: dict[str, LoadSeen] = {}
        self._offsets = {file: file.path.stat().st_size for file in journal_files(folder)}

    def read(self) -> None:
        """Take in everything that is new."""
        files = journal_files(self._folder)
        for file in files:
            for record in self._new_records(file):
                self._take(file.boot_id, record)
        known = set(files)
        self._offsets = {file: offset for file, offset in self._offsets.items() if file in known}

    def loads(self, living: Mapping[str, bool]) -> list[LoadSeen]:
        """The newest load of each worker that lives."""
        self._loads = {boot_id: load for boot_id, load in self._loads.items() if living.get(boot_id)}
        return list(self._loads.values())

    def _new_records(self, file: JournalFile) -> Iterator[Record]:
        offset = self._offsets.get(file, 0)
        try:
            if file.path.stat().st_size <= offset:
                self._offsets[file] = offset
                return
            for item, end in JournalReader(file.path).read(offset):
                self._offsets[file] = end
                if not isinstance(item, BadLine):
                    yield item
        except FileNotFoundError:
            return

    def _take(self, boot_id: str, record: Record) -> None:
        match record:
            case Reserved():
                self._open[record.request_id] = record
                if len(self._open) > _MOST_OPEN:
                    del self._open[next(iter(self._open))]
            case Progressed():
                reserved = self._open.get(record.request_id)
                if reserved is not None and record.completion_tokens:
                    self._last_token_s[reserved.replica] = self._clock.monotonic_s()
            case Settled():
                self._settle(record, self._open.pop(record.request_id, None))
            case Refused():
                self._metrics.refused(record)
            case LoadSeen():
                self._loads[boot_id] = record

    def _settle(self, settled: Settled, reserved: Reserved | None) -> None:
        replica = settled.replica or (reserved.replica if reserved else None)
        if replica is not None and settled.outcome == "completed":
            self._last_token_s[replica] = self._clock.monotonic_s()
        if reserved is not None:
            self._metrics.settled(reserved, settled)
            for learn in self._learners:
                learn(reserved, settled)
