"""Bringing ledger and counters together again after deaths: of workers, of control, or of the machine."""

from pathlib import Path

from outpace.metering.counters import Counters
from outpace.metering.journalfiles import is_writer_alive, journal_files
from outpace.metering.ledger import Ledger, Recovered


def settle_the_dead(ledger: Ledger, counters: Counters, folder: Path) -> list[Recovered]:
    """Close the books of every dead worker and free its column; what a kill cuts off, the next call makes up.

    Raises LedgerUnavailable when the database is; what was done before stays done.
    """
    owners = set(counters.owners())
    written = {file.boot_id for file in journal_files(folder)}
    recovered = []
    for boot_id in sorted(owners | written):
        if is_writer_alive(folder, boot_id):
            continue
        # A column that outlived its retirement: control died before it could tell the counters.
        if boot_id in owners or not ledger.is_retired(boot_id):
            recovered.append(ledger.recover(folder, boot_id))
            counters.retire_column(boot_id, recovered[-1].bases_pusd)
    return recovered


def load_spending(ledger: Ledger, counters: Counters, folder: Path) -> list[Recovered]:
    """What control does first: settle the dead, then tell the counters what was spent, which opens budgets."""
    recovered = settle_the_dead(ledger, counters, folder)
    counters.load_bases(ledger.bases())
    return recovered
