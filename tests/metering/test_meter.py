"""The meter: what the gateway relies on around one request."""

import resource
from pathlib import Path

import pytest
from tests.metering.requests import AT_S, marked, reserved, settled

from outpace.metering import Counters, JournalReader, JournalUnwritable, JournalWriter, Meter
from outpace.values.clock import ManualClock
from outpace.values.errors import BudgetSpent
from outpace.values.records import LoadSeen, Refused

_SLOT = 3
_BUDGET_PUSD = 10**6


class _Worker:
    def __init__(self, folder: Path) -> None:
        self.journal = JournalWriter(folder, "boot", sync_every_s=None)
        counters = Counters.open(folder / "counters")
        counters.load_bases({})
        self.column = counters.claim_column("boot")
        self.clock = ManualClock()
        self.meter = Meter(self.journal, self.column, self.clock)

    def written(self) -> list[object]:
        return [item for item, _ in JournalReader(self.journal.path).read()]


@pytest.fixture
def worker(tmp_path: Path) -> _Worker:
    return _Worker(tmp_path)


def test_a_request_is_reserved_marked_and_settled_once(worker: _Worker) -> None:
    meter = worker.meter
    assert meter.hold(_SLOT, _BUDGET_PUSD, _BUDGET_PUSD, _BUDGET_PUSD) == _BUDGET_PUSD
    meter.open(reserved("one", _BUDGET_PUSD))
    assert list(meter.open_requests) == [reserved("one", _BUDGET_PUSD)]
    meter.mark(marked("one", 1))
    with pytest.raises(BudgetSpent):
        meter.hold(_SLOT, 1, 1, _BUDGET_PUSD)
    assert meter.close(settled("one"))
    assert not meter.close(settled("one"))
    assert not meter.open_requests
    assert (worker.column.spent(_SLOT), worker.column.reserved(_SLOT)) == (settled("one").cost_pusd, 0)
    assert worker.written() == [reserved("one", _BUDGET_PUSD), marked("one", 1), settled("one")]


def test_a_hold_takes_what_is_left_or_refuses(worker: _Worker) -> None:
    assert worker.meter.hold(_SLOT, 1, 700_000, _BUDGET_PUSD) == 700_000
    assert worker.meter.hold(_SLOT, 1, 700_000, _BUDGET_PUSD) == 300_000
    for least_pusd, most_pusd in ((1, 2), (0, 5), (1, 1)):
        with pytest.raises(BudgetSpent):
            worker.meter.hold(_SLOT, least_pusd, most_pusd, _BUDGET_PUSD)
    # What is free may still run.
    assert worker.meter.hold(_SLOT, 0, 0, _BUDGET_PUSD) == 0
    worker.meter.release(_SLOT, 300_000)
    worker.meter.release(_SLOT, 0)
    assert worker.column.reserved(_SLOT) == 700_000


def test_what_cannot_be_recorded_does_not_run_and_holds_nothing(worker: _Worker) -> None:
    held_pusd = worker.meter.hold(_SLOT, 10, 10, _BUDGET_PUSD)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(JournalUnwritable):
            worker.meter.open(reserved("one", held_pusd))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert worker.column.reserved(_SLOT) == 0
    assert not worker.meter.open_requests
    assert not worker.meter.close(settled("one"))
    assert worker.written() == []


def test_an_unpriced_request_costs_nothing_and_is_recorded(worker: _Worker) -> None:
    worker.meter.open(reserved("one", 0, price=None))
    assert worker.meter.close(settled("one", price=None))
    assert worker.column.spent(_SLOT) == 0
    assert worker.written() == [reserved("one", 0, price=None), settled("one", price=None)]


def test_rates_refusals_and_loads_go_through(worker: _Worker) -> None:
    assert worker.meter.take(_SLOT, 1, 100, 60).is_allowed
    assert worker.meter.take(_SLOT, 1, 100, 10).hit == "requests"
    worker.clock.advance(60)
    worker.clock.jump_wall(-3600)
    state = worker.meter.take(_SLOT, 1, 100, 60)
    assert (state.is_allowed, state.remaining_tokens) == (True, 40)
    worker.meter.give_back_tokens(_SLOT, 50, 100)
    worker.meter.refuse(Refused(AT_S, "key_a", None, 429, "rate_limit_exceeded"))
    worker.meter.note_load(LoadSeen(AT_S, {"d": 1}, 2))
    assert len(worker.written()) == 2
