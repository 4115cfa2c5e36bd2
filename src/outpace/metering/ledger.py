"""The ledger: what journals said, booked once. Only control writes it; the gateway never comes here."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
import structlog

from outpace.metering import booking, books, tables
from outpace.metering.booking import OpenRequest, Receipt
from outpace.metering.journalfiles import BadLine, JournalFile, JournalReader, is_writer_alive, journal_files
from outpace.values.clock import Clock
from outpace.values.errors import Conflict, Overloaded
from outpace.values.records import LoadSeen, Record

# Records booked in one transaction.
MOST_RECORDS = 2_000
_EVERYTHING = 2**63 - 1
# Any number; the same for every process, so that ledger writers of PostgreSQL take turns as SQLite's do.
_WRITERS_LOCK = 7_305_801
_log = structlog.get_logger()


class LedgerUnavailable(Overloaded):
    """The database is locked or away; nothing was booked, the journals keep everything until it is back."""


class Ingested(msgspec.Struct, frozen=True):
    """What one reading of the journals brought."""

    num_records: int = 0
    num_bad_lines: int = 0
    # Whether everything that was complete has been read.
    is_at_end: bool = True
    # The newest load seen, by boot id.
    loads: dict[str, LoadSeen] = {}


class Recovered(msgspec.Struct, frozen=True):
    """How the books of a dead worker were closed."""

    boot_id: str
    num_settled: int
    cost_pusd: int
    # By slot: what all retired journals add up to, for the counters.
    bases_pusd: dict[int, int]


class Ledger:
    """Books journals into the tables of `metering.tables`. Every method is a transaction of its own.

    Raises LedgerUnavailable from every method, after the engine's own bounded wait, when the database is
    locked or out of reach.
    """

    def __init__(self, engine: sa.Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._read_to: dict[JournalFile, int] = {}

    def ingest_folder(self, folder: Path) -> Ingested:
        """Book everything new in all journals."""
        readings = [self.ingest(file) for file in journal_files(folder)]
        return Ingested(
            num_records=sum(reading.num_records for reading in readings),
            num_bad_lines=sum(reading.num_bad_lines for reading in readings),
            is_at_end=all(reading.is_at_end for reading in readings),
            loads={boot_id: load for reading in readings for boot_id, load in reading.loads.items()},
        )

    def ingest(self, file: JournalFile) -> Ingested:
        """Book everything new in one journal file, in batches; reading anything again changes nothing."""
        total = Ingested()
        while not self._is_read(file):
            batch = self.ingest_batch(file)
            total = Ingested(
                total.num_records + batch.num_records,
                total.num_bad_lines + batch.num_bad_lines,
                batch.is_at_end,
                total.loads | batch.loads,
            )
            if batch.is_at_end:
                break
        return total

    def ingest_batch(self, file: JournalFile, most_records: int = MOST_RECORDS) -> Ingested:
        """Book at most `most_records`, together with the offset behind them."""
        with self._writing() as connection:
            offset, is_retired = books.position(connection, file)
            if is_retired:
                self._read_to[file] = _EVERYTHING
                return Ingested()
            items, end_offset = _read(file, offset, most_records)
            bad_lines = [item for item in items if isinstance(item, BadLine)]
            batch = booking.sort_records(file.boot_id, (r for r in items if not isinstance(r, BadLine)))
            books.book(connection, batch.requests)
            books.add(connection, tables.refusals, batch.refusals, "num_requests")
            books.move(connection, file, end_offset, len(bad_lines), self._clock.wall_s())
        self._read_to[file] = end_offset
        for line in bad_lines:
            _log.warning(
                "journal_line_skipped", file=file.path.name, offset=line.offset, problem=line.problem
            )
        return Ingested(
            len(items) - len(bad_lines),
            len(bad_lines),
            len(items) < most_records,
            {file.boot_id: batch.load} if batch.load else {},
        )

    def recover(self, folder: Path, boot_id: str) -> Recovered:
        """Close the books of a dead worker: the rest of its journal, its open requests, its share of spending.

        Again is harmless. The counters' column is retired with the bases that this returns, and only with them.
        Raises Conflict while the worker lives.
        """
        if is_writer_alive(folder, boot_id):
            raise Conflict(f"{boot_id} is alive; only a dead worker's requests can be recovered")
        files = [file for file in journal_files(folder) if file.boot_id == boot_id]
        if not files and not self.is_retired(boot_id):
            # Somebody deleted it. What was booked before is all that can be charged.
            _log.error("journal_missing", boot_id=boot_id)
        for file in files:
            self.ingest(file)
        with self._writing() as connection:
            receipts = [self._receipt_of_dead(request) for request in books.open_of(connection, boot_id)]
            settled = [receipt for receipt in receipts if receipt is not None]
            books.write_receipts(connection, settled)
            books.delete_open(connection, tables.open_requests.c.boot_id == boot_id)
            books.retire(connection, JournalFile(folder, boot_id, 0), self._clock.wall_s())
            # All of them: an earlier try may have been cut off before it told the counters.
            bases_pusd = books.bases(connection)
        cost_pusd = sum(receipt.cost_pusd or 0 for receipt in settled)
        if settled:
            _log.info("worker_recovered", boot_id=boot_id, num_settled=len(settled), cost_pusd=cost_pusd)
        return Recovered(boot_id, len(settled), cost_pusd, bases_pusd)

    def is_retired(self, boot_id: str) -> bool:
        """Whether the books of this worker are closed for good."""
        file = tables.journal_files.c
        wanted = sa.select(file.boot_id).where(file.boot_id == boot_id, file.retired_at_s.is_not(None))
        with self._reading() as connection:
            return connection.execute(wanted.limit(1)).first() is not None

    def bases(self) -> dict[int, int]:
        """What all retired journals add up to, by slot."""
        with self._reading() as connection:
            return books.bases(connection)

    def remove_retired(self, folder: Path, retention_s: float) -> list[Path]:
        """Delete journal files that are booked to the end and were last read `retention_s` ago.

        Files of retired workers, and finished parts of living ones; never one that still has to be read.
        """
        oldest_s = self._clock.wall_s() - retention_s
        files = journal_files(folder)
        last_part = {file.boot_id: file.part for file in files}
        with self._reading() as connection:
            done = {
                (row.boot_id, row.part): row
                for row in connection.execute(
                    sa.select(tables.journal_files).where(tables.journal_files.c.ingested_at_s <= oldest_s)
                )
            }
        removed = []
        for file in files:
            row = done.get((file.boot_id, file.part))
            if row is None or not _is_removable(file, row, last_part[file.boot_id]):
                continue
            file.path.unlink()
            removed.append(file.path)
        return removed

    def _is_read(self, file: JournalFile) -> bool:
        """Whether nothing was added since the last reading, without asking the database."""
        try:
            return file.path.stat().st_size <= self._read_to.get(file, -1)
        except FileNotFoundError:
            return True

    def _receipt_of_dead(self, request: OpenRequest) -> Receipt | None:
        if request.reserved is None:
            _log.warning(
                "reservation_record_missing",
                request_id=request.request_id,
                boot_id=request.boot_id,
                is_settled=request.settled is not None,
            )
            if request.settled is None:
                return None
        settled = request.settled or booking.recovered(request, self._clock.wall_s())
        return booking.receipt_of(request, settled)

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with translated(), self._engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_WRITERS_LOCK)))
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with reading(self._engine) as connection:
            yield connection


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection for queries, in one transaction."""
    with translated(), engine.connect().execution_options(**{tables.READS_ONLY: True}) as connection:
        yield connection


@contextmanager
def translated() -> Iterator[None]:
    """Raises LedgerUnavailable where the driver says that the database is locked, read-only or away."""
    try:
        yield
    except (sa.exc.OperationalError, sa.exc.InternalError, sa.exc.TimeoutError) as error:
        raise LedgerUnavailable(
            "The database is locked or out of reach; usage waits in the journals.", retry_after_s=2.0
        ) from error
    except sa.exc.DBAPIError as error:
        if not error.connection_invalidated:
            raise
        raise LedgerUnavailable("The database went away; usage waits in the journals.") from error


def _read(file: JournalFile, offset: int, most_records: int) -> tuple[list[Record | BadLine], int]:
    items: list[Record | BadLine] = []
    try:
        for item, end_offset in islice(JournalReader(file.path).read(offset), most_records):
            items.append(item)
            offset = end_offset
    except FileNotFoundError:
        pass  # removed after its retention: it was booked to the end
    return items, offset


def _is_removable(file: JournalFile, row: sa.Row[*tuple[Any, ...]], last_part: int) -> bool:
    if row.retired_at_s is not None:
        return True
    # Part 0 carries the lock that says that the worker lives.
    is_finished = 0 < file.part < last_part
    return is_finished and row.offset_bytes >= file.path.stat().st_size
