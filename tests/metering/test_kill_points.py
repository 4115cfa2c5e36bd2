"""`kill -9` at every point that decision 0005 names, by a real process that really dies there."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.metering.conftest import make_sqlite
from tests.metering.doomed import BEFORE, BUDGET_PUSD, DOOMED, HELD_PUSD, SLOT
from tests.metering.requests import PRICE, reserved, settled

from outpace.metering import (
    Counters,
    JournalWriter,
    Ledger,
    Meter,
    Reports,
    is_writer_alive,
    load_spending,
    settle_the_dead,
    tables,
)
from outpace.values.clock import SystemClock

_ROOT = Path(__file__).parents[2]
_BEFORE_PUSD = PRICE.cost_pusd(100, 40, 10)
_MARKED_PUSD = PRICE.cost_pusd(100, 40, 20)
_FULL_PUSD = PRICE.cost_pusd(100, 40, 50)


class _Installation:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engine = make_sqlite(folder / "ledger.db")
        tables.metadata.create_all(self.engine)
        self.ledger = Ledger(self.engine, SystemClock())
        self.counters = Counters.open(folder / "counters")
        load_spending(self.ledger, self.counters, folder)

    def run(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "tests.metering.doomed", *arguments, str(self.folder)]
        ended = subprocess.run(command, cwd=_ROOT, timeout=60, capture_output=True, check=False)
        assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
        # Only these get to the end; the others died where they should.
        assert (b"end" in ended.stdout) == (arguments[1] in ("closed", "done"))

    def check_closed(self, spent_pusd: int) -> None:
        """All is settled, nothing is held, and a next worker finds the budget as it must be."""
        reports = Reports(self.engine)
        balance = reports.balance()
        assert balance.is_balanced
        assert balance.reserved_pusd - balance.released_pusd - balance.settled_pusd == 0
        assert (balance.num_open, balance.settled_pusd) == (0, spent_pusd)
        assert (self.counters.spent(SLOT), self.counters.reserved(SLOT)) == (spent_pusd, 0)
        assert self.counters.owners() == []
        column = self.counters.claim_column("next")
        assert not column.reserve(SLOT, BUDGET_PUSD - spent_pusd + 1, BUDGET_PUSD)
        assert column.reserve(SLOT, BUDGET_PUSD - spent_pusd, BUDGET_PUSD)


@pytest.fixture
def installation(tmp_path: Path) -> _Installation:
    return _Installation(tmp_path)


@pytest.mark.parametrize(
    ("point", "outcome", "cost_pusd"),
    [
        ("idle", None, None),
        ("row_locked", None, None),
        ("held", None, None),
        ("reservation_torn", None, None),
        ("opened", "recovered", 0),
        ("marked", "recovered", _MARKED_PUSD),
        ("settlement_torn", "recovered", _MARKED_PUSD),
        ("settlement_written", "completed", _FULL_PUSD),
        ("cost_counted", "completed", _FULL_PUSD),
        ("closed", "completed", _FULL_PUSD),
    ],
)
def test_a_worker_killed_anywhere_is_charged_exactly_once(
    installation: _Installation, point: str, outcome: str | None, cost_pusd: int | None
) -> None:
    installation.run("worker", point)
    true_pusd = _BEFORE_PUSD + (cost_pusd or 0)
    counters = installation.counters
    assert true_pusd <= counters.spent(SLOT) + counters.reserved(SLOT) <= BUDGET_PUSD
    # Nobody waits for the dead: another worker uses the same key meanwhile.
    column = counters.claim_column("meanwhile")
    assert column.reserve(SLOT, 1, BUDGET_PUSD)
    column.settle(SLOT, 1, 0)
    counters.retire_column("meanwhile", {})

    settle_the_dead(installation.ledger, counters, installation.folder)
    receipt = Reports(installation.engine).receipt(DOOMED)
    assert (receipt and receipt.outcome, receipt and receipt.cost_pusd) == (outcome, cost_pusd)
    before = Reports(installation.engine).receipt(BEFORE)
    assert before is not None
    assert before.outcome == "completed"
    assert settle_the_dead(installation.ledger, counters, installation.folder) == []
    installation.check_closed(true_pusd)


def test_a_worker_killed_before_it_had_a_column_leaves_nothing(installation: _Installation) -> None:
    installation.run("worker", "journal_made")
    assert not is_writer_alive(installation.folder, "boot")
    settle_the_dead(installation.ledger, installation.counters, installation.folder)
    installation.check_closed(0)


@pytest.mark.parametrize(
    "point",
    [
        "before_anything",
        "booking",
        "booked",
        "recovering",
        "recovered",
        "base_set",
        "settled_cleared",
        "column_cleared",
        "done",
    ],
)
def test_a_control_killed_anywhere_is_made_up_for_by_the_next(
    installation: _Installation, point: str
) -> None:
    installation.run("worker", "marked")
    spent_pusd = _BEFORE_PUSD + _MARKED_PUSD
    installation.run("control", point)
    counters = installation.counters
    assert spent_pusd <= counters.spent(SLOT) + counters.reserved(SLOT), "never too little in between"
    settle_the_dead(installation.ledger, counters, installation.folder)
    installation.check_closed(spent_pusd)


def test_a_lost_counters_file_is_rebuilt_from_the_ledger(installation: _Installation) -> None:
    installation.run("worker", "marked")
    installation.counters.close()
    (installation.folder / "counters").unlink()
    installation.counters = Counters.open(installation.folder / "counters")
    load_spending(installation.ledger, installation.counters, installation.folder)
    installation.check_closed(_BEFORE_PUSD + _MARKED_PUSD)


def test_a_deleted_journal_is_settled_from_what_was_booked(installation: _Installation) -> None:
    installation.run("worker", "marked")
    installation.ledger.ingest_folder(installation.folder)
    (installation.folder / "boot.jsonl").unlink()
    settle_the_dead(installation.ledger, installation.counters, installation.folder)
    installation.check_closed(_BEFORE_PUSD + _MARKED_PUSD)


def test_the_living_are_left_alone(installation: _Installation) -> None:
    writer = JournalWriter(installation.folder, "alive", sync_every_s=None)
    meter = Meter(writer, installation.counters.claim_column("alive"), SystemClock())
    meter.hold(SLOT, HELD_PUSD, HELD_PUSD, BUDGET_PUSD)
    meter.open(reserved("one", HELD_PUSD, slot=SLOT))
    installation.run("worker", "marked")
    assert len(settle_the_dead(installation.ledger, installation.counters, installation.folder)) == 1
    assert installation.counters.reserved(SLOT) == HELD_PUSD
    meter.close(settled("one"))
    assert installation.counters.spent(SLOT) == _BEFORE_PUSD + _MARKED_PUSD + _FULL_PUSD
    writer.close()
    settle_the_dead(installation.ledger, installation.counters, installation.folder)
    installation.check_closed(_BEFORE_PUSD + _MARKED_PUSD + _FULL_PUSD)
