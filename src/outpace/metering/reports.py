"""Questions to the ledger: usage, receipts, what a key has spent, and whether the books balance."""

from typing import Any

import msgspec
import sqlalchemy as sa

from outpace.metering import books, tables
from outpace.metering.booking import Receipt, utc_day
from outpace.metering.ledger import reading

# Sums are made of a high and a low half, as neither database adds beyond 64 bits without loss.
_HALF = 10**9


class UsageLine(msgspec.Struct, frozen=True):
    """What one key used of one model."""

    key_id: str
    model: str
    # Quantity by unit: requests, prompt_tokens, completion_tokens, cached_tokens, …
    units: dict[str, int]
    cost_pusd: int
    # Requests of deployments without a price; they are not in the cost.
    unpriced_requests: int


class RefusalLine(msgspec.Struct, frozen=True):
    """Requests turned away before any reservation."""

    key_id: str
    status: int
    code: str
    num_requests: int


class Balance(msgspec.Struct, frozen=True):
    """The books, summed: `reserved - released - settled` is what is still open."""

    reserved_pusd: int
    released_pusd: int
    settled_pusd: int
    num_open: int
    open_pusd: int
    usage_pusd: int
    spend_pusd: int

    @property
    def is_balanced(self) -> bool:
        """Whether open requests explain all that is reserved, and receipts, usage and spending agree."""
        held_pusd = self.reserved_pusd - self.released_pusd - self.settled_pusd
        return held_pusd == self.open_pusd and self.settled_pusd == self.usage_pusd == self.spend_pusd


class Reports:
    """Reads the ledger's tables. Raises LedgerUnavailable like the ledger."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def usage(
        self, *, key_id: str | None = None, model: str | None = None, since_s: float | None = None
    ) -> list[UsageLine]:
        """Usage by key and model, from the UTC day of `since_s` on."""
        table = tables.usage.c
        wanted = sa.select(table.key_id, table.model, table.unit, *_halves(table.quantity))
        wanted = wanted.group_by(table.key_id, table.model, table.unit)
        wanted = wanted.order_by(table.key_id, table.model)
        for condition in _given((table.key_id, key_id), (table.model, model)):
            wanted = wanted.where(condition)
        if since_s is not None:
            wanted = wanted.where(table.day >= utc_day(since_s))
        lines: dict[tuple[str, str], dict[str, int]] = {}
        with reading(self._engine) as connection:
            for row in connection.execute(wanted):
                lines.setdefault((row.key_id, row.model), {})[row.unit] = _whole(row)
        return [_usage_line(key, units) for key, units in lines.items()]

    def refusals(self, *, key_id: str | None = None, since_s: float | None = None) -> list[RefusalLine]:
        """Requests turned away, by key, status and code."""
        table = tables.refusals.c
        wanted = sa.select(table.key_id, table.status, table.code, sa.func.sum(table.num_requests))
        wanted = wanted.group_by(table.key_id, table.status, table.code)
        wanted = wanted.order_by(table.key_id, table.status, table.code)
        for condition in _given((table.key_id, key_id)):
            wanted = wanted.where(condition)
        if since_s is not None:
            wanted = wanted.where(table.day >= utc_day(since_s))
        with reading(self._engine) as connection:
            return [RefusalLine(*row[:3], int(row[3])) for row in connection.execute(wanted)]

    def key_spend(self, key_id: str) -> int:
        """Pico-dollars that a key has spent, as far as journals are booked."""
        return self.spend_by_key(key_id).get(key_id, 0)

    def spend_by_key(self, key_id: str | None = None) -> dict[str, int]:
        """Pico-dollars spent, by key, of all keys or of one."""
        table = tables.spend.c
        wanted = sa.select(table.key_id, *_halves(table.cost_pusd)).group_by(table.key_id)
        for condition in _given((table.key_id, key_id)):
            wanted = wanted.where(condition)
        with reading(self._engine) as connection:
            return {row.key_id: _whole(row) for row in connection.execute(wanted)}

    def receipt(self, request_id: str) -> Receipt | None:
        """The receipt of one request; None when it has not ended or never was."""
        wanted = sa.select(tables.receipts).where(tables.receipts.c.request_id == request_id)
        with reading(self._engine) as connection:
            row = connection.execute(wanted).first()
        return None if row is None else books.receipt_from(row)

    def receipts(self, limit: int, *, key_id: str | None = None) -> list[Receipt]:
        """The newest receipts first."""
        table = tables.receipts.c
        wanted = sa.select(tables.receipts).order_by(table.settled_at_s.desc(), table.request_id).limit(limit)
        for condition in _given((table.key_id, key_id)):
            wanted = wanted.where(condition)
        with reading(self._engine) as connection:
            return [books.receipt_from(row) for row in connection.execute(wanted)]

    def balance(self) -> Balance:
        """Sums over the whole ledger; reads every receipt."""
        receipts, opened, used = tables.receipts.c, tables.open_requests.c, tables.usage.c
        with reading(self._engine) as connection:
            settled_pusd = _sum(connection, receipts.cost_pusd)
            receipted_pusd = _sum(connection, receipts.reserved_pusd)
            open_pusd = _sum(connection, opened.reserved_pusd)
            num_open = connection.execute(sa.select(sa.func.count(opened.request_id))).scalar_one()
            usage_pusd = _sum(connection, used.quantity, used.unit == "cost_pusd")
            spend_pusd = _sum(connection, tables.spend.c.cost_pusd)
        return Balance(
            reserved_pusd=receipted_pusd + open_pusd,
            released_pusd=receipted_pusd - settled_pusd,
            settled_pusd=settled_pusd,
            num_open=num_open,
            open_pusd=open_pusd,
            usage_pusd=usage_pusd,
            spend_pusd=spend_pusd,
        )


def _usage_line(key: tuple[str, str], units: dict[str, int]) -> UsageLine:
    cost_pusd = units.pop("cost_pusd", 0)
    unpriced_requests = units.pop("unpriced_requests", 0)
    return UsageLine(*key, units, cost_pusd, unpriced_requests)


def _given(*pairs: tuple[sa.ColumnElement[str], str | None]) -> list[sa.ColumnElement[bool]]:
    return [column == value for column, value in pairs if value is not None]


def _sum(
    connection: sa.Connection, column: sa.ColumnElement[int | None], *where: sa.ColumnElement[bool]
) -> int:
    return _whole(connection.execute(sa.select(*_halves(column)).where(*where)).one())


def _halves(column: sa.ColumnElement[Any]) -> tuple[sa.ColumnElement[Any], sa.ColumnElement[Any]]:
    return sa.func.sum(column // _HALF).label("high"), sa.func.sum(column % _HALF).label("low")


def _whole(row: sa.Row[*tuple[Any, ...]]) -> int:
    return int(row.high or 0) * _HALF + int(row.low or 0)
