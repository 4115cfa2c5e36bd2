"""Metering: journal, shared counters, ledger and receipts."""

from importlib import import_module
from typing import TYPE_CHECKING

from outpace.metering.boot import new_boot_id
from outpace.metering.counters import Column, Counters, CountersNotLoaded
from outpace.metering.journal import JournalUnwritable, JournalWriter
from outpace.metering.journalfiles import BadLine, JournalFile, JournalReader, is_writer_alive, journal_files
from outpace.metering.meter import Meter
from outpace.metering.rates import RateState, duration_text

if TYPE_CHECKING:
    from outpace.metering.booking import Receipt
    from outpace.metering.ledger import Ingested, Ledger, LedgerUnavailable, Recovered
    from outpace.metering.recovery import load_spending, settle_the_dead
    from outpace.metering.reports import Balance, RefusalLine, Reports, UsageLine

# Imported when asked for: gateway workers must not carry SQLAlchemy.
_SQL_SIDE = {
    "Receipt": "booking",
    "Ingested": "ledger",
    "Ledger": "ledger",
    "LedgerUnavailable": "ledger",
    "Recovered": "ledger",
    "load_spending": "recovery",
    "settle_the_dead": "recovery",
    "Balance": "reports",
    "RefusalLine": "reports",
    "Reports": "reports",
    "UsageLine": "reports",
}

__all__ = [
    "BadLine",
    "Balance",
    "Column",
    "Counters",
    "CountersNotLoaded",
    "Ingested",
    "JournalFile",
    "JournalReader",
    "JournalUnwritable",
    "JournalWriter",
    "Ledger",
    "LedgerUnavailable",
    "Meter",
    "RateState",
    "Receipt",
    "Recovered",
    "RefusalLine",
    "Reports",
    "UsageLine",
    "duration_text",
    "is_writer_alive",
    "journal_files",
    "load_spending",
    "new_boot_id",
    "settle_the_dead",
]


def __getattr__(name: str) -> object:
    if name not in _SQL_SIDE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"outpace.metering.{_SQL_SIDE[name]}"), name)
