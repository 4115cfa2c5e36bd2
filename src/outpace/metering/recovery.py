"""Bringing ledger and counters together again after deaths: of workers, of control, or of the machine."""

from pathlib import Path

import structlog

from outpace.metering.counters import Counters
from outpace.metering.journalfiles import is_writer_alive, journal_files
from outpace.metering.ledger import Ledger, Recovered

_log = structlog.get_logger()


def settle_the_dead(ledger: Ledger, counters: Counters, folder: Path) -> list[Recovered]:
    """Close the books of every dead worker and free its column; a kill in the middle is made up by the next call.

    Raises LedgerUnavailable when the database is; what was done before stays done.
    """
    recovered = []
    for boot_id in sorted({file.boot_id for file in journal_files(folder)}):
        if is_writer_alive(folder, boot_id) or ledger.is_retired(boot_id):
            continue
        recovered.append(ledger.recover(folder, boot_id))
        counters.retire_column(boot_id, recovered[-1].bases_pusd)
    _free_columns(ledger, counters, folder)
    return recovered


def load_spending(ledger: Ledger, counters: Counters, folder: Path) -> list[Recovered]:
    """What control does first: settle the dead, then tell the counters what was spent, which opens budgets."""
    recovered = settle_the_dead(ledger, counters, folder)
    counters.load_bases(ledger.bases())
    return recovered


def _free_columns(ledger: Ledger, counters: Counters, folder: Path) -> None:
    """Columns whose worker was retired by a control that died before it told the counters."""
    for boot_id in counters.owners():
        if is_writer_alive(folder, boot_id):
            continue
        if ledger.is_retired(boot_id):
            counters.retire_column(boot_id, ledger.bases())
        else:
            # Somebody deleted the journal. What the column holds is all that is left, so it goes on counting.
            _log.error("journal_missing", boot_id=boot_id)
