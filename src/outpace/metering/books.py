"""The ledger's statements: each takes a connection inside a transaction of a ledger writer, who is alone."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from outpace.metering import booking, tables
from outpace.metering.booking import OpenRequest, Receipt, SpendKey
from outpace.metering.journalfiles import JournalFile
from outpace.values import records
from outpace.values.money import Price
from outpace.values.records import Progressed, Reserved, Serving, Settled
from outpace.values.usage import Usage

_LARGEST_SUM = 2**63 - 1
_Row = dict[str, Any]


def position(connection: sa.Connection, file: JournalFile) -> tuple[int, bool]:
    """Up to where a journal file is booked, and whether its worker's books are closed."""
    column = tables.journal_files.c
    rows = connection.execute(
        sa.select(column.part, column.offset_bytes, column.retired_at_s).where(column.boot_id == file.boot_id)
    ).all()
    offsets = {row.part: row.offset_bytes for row in rows}
    return offsets.get(file.part, 0), any(row.retired_at_s is not None for row in rows)


def move(connection: sa.Connection, file: JournalFile, offset: int, num_bad_lines: int, now_s: float) -> None:
    """Note that a journal file is booked up to `offset`."""
    table = tables.journal_files
    row = {
        "boot_id": file.boot_id,
        "part": file.part,
        "offset_bytes": offset,
        "num_bad_lines": num_bad_lines,
        "ingested_at_s": now_s,
    }
    statement = _upsert(connection, table).values(row)
    fresh = statement.excluded
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[table.c.boot_id, table.c.part],
            set_={
                "offset_bytes": fresh.offset_bytes,
                "num_bad_lines": table.c.num_bad_lines + fresh.num_bad_lines,
                "ingested_at_s": fresh.ingested_at_s,
            },
        )
    )


def book(connection: sa.Connection, requests: Mapping[str, OpenRequest]) -> None:
    """Join requests with what is known of them: complete ones get their receipt, the others stay open."""
    receipted = _receipted(connection, requests)
    stored = {request.request_id: request for request in _open_among(connection, requests)}
    standing = []
    for request_id, request in requests.items():
        if request_id in receipted:
            continue
        known = stored.get(request_id, request)
        booking.merge(known, request)
        standing.append(known)
    delete_open(connection, tables.open_requests.c.request_id.in_(stored))
    _insert(connection, tables.open_requests, [_open_row(r) for r in standing if not r.is_complete])
    write_receipts(
        connection, [booking.receipt_of(r, r.settled) for r in standing if r.is_complete and r.settled]
    )


def write_receipts(connection: sa.Connection, receipts: Sequence[Receipt]) -> None:
    """Write receipts that do not exist yet, and add them to usage and spending."""
    _insert(connection, tables.receipts, [_receipt_row(receipt) for receipt in receipts])
    add(connection, tables.usage, booking.units_of(receipts), "quantity")
    add(connection, tables.spend, booking.spend_of(receipts), "cost_pusd")


def add(connection: sa.Connection, table: sa.Table, amounts: Mapping[Any, int], column: str) -> None:
    """Add to a table's sums; the keys of `amounts` are structs with the primary key's fields.

    Sums saturate at 2^63 - 1: a wrapped one would open a spent budget, a refused one would stop the ledger.
    """
    if not amounts:
        return
    statement = _upsert(connection, table)
    before, more = table.c[column], statement.excluded[column]
    total = sa.case((before > _LARGEST_SUM - more, _LARGEST_SUM), else_=before + more)
    connection.execute(
        statement.on_conflict_do_update(index_elements=list(table.primary_key), set_={column: total}),
        [
            {**msgspec.structs.asdict(key), column: min(amount, _LARGEST_SUM)}
            for key, amount in amounts.items()
        ],
    )


def open_of(connection: sa.Connection, boot_id: str) -> list[OpenRequest]:
    """Requests of one worker's life that have not ended."""
    return _open_where(connection, tables.open_requests.c.boot_id == boot_id)


def delete_open(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> None:
    """Forget open requests."""
    connection.execute(tables.open_requests.delete().where(condition))


def retire(connection: sa.Connection, file: JournalFile, now_s: float) -> None:
    """Close the books of the worker's life that wrote `file`."""
    spend, files = tables.spend, tables.journal_files
    rows = connection.execute(sa.select(spend).where(spend.c.boot_id == file.boot_id)).all()
    retired = {SpendKey(tables.RETIRED, row.key_id, row.slot): row.cost_pusd for row in rows}
    add(connection, spend, retired, "cost_pusd")
    connection.execute(spend.delete().where(spend.c.boot_id == file.boot_id))
    offset, is_retired = position(connection, file)
    if is_retired:
        return
    # Also for a worker that never wrote, or whose file is gone.
    move(connection, file, offset, 0, now_s)
    connection.execute(files.update().where(files.c.boot_id == file.boot_id).values(retired_at_s=now_s))


def bases(connection: sa.Connection) -> dict[int, int]:
    """What all retired journals add up to, by slot."""
    spend = tables.spend.c
    wanted = sa.select(spend.slot, spend.cost_pusd).where(spend.boot_id == tables.RETIRED, spend.slot >= 0)
    found: dict[int, int] = {}
    for slot, cost_pusd in connection.execute(wanted):
        found[slot] = min(found.get(slot, 0) + cost_pusd, _LARGEST_SUM)
    return found


def receipt_from(row: sa.Row[*tuple[Any, ...]]) -> Receipt:
    """The receipt in a row of its table."""
    fields = dict(row._mapping)
    fields["usage"] = msgspec.json.decode(fields["usage"], type=Usage)
    if fields["price"] is not None:
        fields["price"] = msgspec.json.decode(fields["price"], type=Price)
    if fields["serving"] is not None:
        fields["serving"] = msgspec.json.decode(fields["serving"], type=Serving)
    return Receipt(**fields)


def _receipt_row(receipt: Receipt) -> _Row:
    row = msgspec.structs.asdict(receipt)
    row["usage"] = msgspec.json.encode(receipt.usage).decode()
    row["price"] = None if receipt.price is None else msgspec.json.encode(receipt.price).decode()
    row["serving"] = None if receipt.serving is None else msgspec.json.encode(receipt.serving).decode()
    return row


def _receipted(connection: sa.Connection, request_ids: Iterable[str]) -> set[str]:
    request_id = tables.receipts.c.request_id
    return set(connection.execute(sa.select(request_id).where(request_id.in_(request_ids))).scalars())


def _open_among(connection: sa.Connection, request_ids: Iterable[str]) -> list[OpenRequest]:
    return _open_where(connection, tables.open_requests.c.request_id.in_(request_ids))


def _open_where(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[OpenRequest]:
    return [_open_from(row) for row in connection.execute(sa.select(tables.open_requests).where(condition))]


def _open_from(row: sa.Row[*tuple[Any, ...]]) -> OpenRequest:
    request = OpenRequest(row.request_id, row.boot_id)
    for line in (row.reserved, row.marked, row.settled):
        if line is not None:
            record = records.decode(line.encode())
            assert isinstance(record, Reserved | Progressed | Settled), "only these are stored"
            booking.add_record(request, record)
    return request


def _open_row(request: OpenRequest) -> _Row:
    return {
        "request_id": request.request_id,
        "boot_id": request.boot_id,
        "reserved_pusd": request.reserved.reserved_pusd if request.reserved else 0,
        "reserved": _line(request.reserved),
        "marked": _line(request.marked),
        "settled": _line(request.settled),
    }


def _line(record: Reserved | Progressed | Settled | None) -> str | None:
    return None if record is None else records.encode(record).decode()


def _insert(connection: sa.Connection, table: sa.Table, rows: list[_Row]) -> None:
    if rows:
        connection.execute(table.insert(), rows)


def _upsert(connection: sa.Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)
