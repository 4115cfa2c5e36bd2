"""Metering: journal, shared counters, ledger and receipts."""

from outpace.metering.boot import new_boot_id
from outpace.metering.counters import Column, Counters, CountersNotLoaded
from outpace.metering.journal import JournalUnwritable, JournalWriter
from outpace.metering.journalfiles import BadLine, JournalFile, JournalReader, is_writer_alive, journal_files
from outpace.metering.meter import Meter
from outpace.metering.rates import RateState, duration_text

__all__ = [
    "BadLine",
    "Column",
    "Counters",
    "CountersNotLoaded",
    "JournalFile",
    "JournalReader",
    "JournalUnwritable",
    "JournalWriter",
    "Meter",
    "RateState",
    "duration_text",
    "is_writer_alive",
    "journal_files",
    "new_boot_id",
]
