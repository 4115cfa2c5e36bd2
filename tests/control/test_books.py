"""The booking loop on real journals: ledger, counters, metrics and signs of life together."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from outpace.control.books import Books
from outpace.control.database import open_database
from outpace.control.metrics import Metrics
from outpace.control.tail import Tail
from outpace.metering import Counters, JournalWriter
from outpace.metering.ledger import Ledger
from outpace.metering.reports import Reports
from outpace.values.clock import ManualClock
from outpace.values.home import Home
from outpace.values.money import Price
from outpace.values.records import LoadSeen, Progressed, Refused, Reserved, Settled
from outpace.values.usage import Usage

PRICE = Price(input_pusd=1_000, output_pusd=2_000, cached_input_pusd=500)


class Shelf:
    """Everything that books need, around one home."""

    def __init__(self, home: Home) -> None:
        self.clock = ManualClock()
        self.metrics = Metrics()
        self.last_token_s: dict[str, float] = {}
        self.engine = open_database(None, home.database)
        self.counters = Counters.open(home.counters)
        self.reports = Reports(self.engine)
        tail = Tail(home.journal, self.clock, self.metrics, self.last_token_s, [])
        self.books = Books(
            Ledger(self.engine, self.clock), self.counters, home.journal, self.clock, tail, self.metrics
        )

    def close(self) -> None:
        """Let go of the files."""
        self.engine.dispose()
        self.counters.close()


@pytest.fixture
def shelf(home: Home) -> Iterator[Shelf]:
    made = Shelf(home)
    yield made
    made.close()


def _reserved(request_id: str) -> Reserved:
    return Reserved(
        request_id=request_id,
        at_s=1.0,
        key_id="key_1",
        slot=3,
        deployment="chat",
        model="chat",
        endpoint="chat",
        engine="echo",
        replica="chat@1",
        stream=True,
        reserved_pusd=100_000,
        price=PRICE,
    )


def _settled(request_id: str) -> Settled:
    usage = Usage(prompt_tokens=10, completion_tokens=5, cached_tokens=4)
    return Settled(
        request_id=request_id,
        at_s=2.0,
        status=200,
        outcome="completed",
        usage=usage,
        cost_pusd=18_000,
        ttft_s=0.1,
    )


def _write(folder: Path, *records: Reserved | Progressed | Settled | Refused | LoadSeen) -> JournalWriter:
    writer = JournalWriter(folder, "00000000001-1-aaaa", sync_every_s=None)
    for record in records:
        writer.write(record)
    return writer


def test_what_is_settled_is_booked_shown_and_a_sign_of_life(shelf: Shelf, home: Home) -> None:
    load = LoadSeen(at_s=1.0, in_flight={"chat": 2}, connections=7)
    refused = Refused(at_s=1.0, key_id=None, model=None, status=401, code="invalid_api_key", count=3)
    writer = _write(home.journal, _reserved("r1"), load, refused, _settled("r1"))
    for _ in range(2):
        shelf.books.step()
    assert [line.cost_pusd for line in shelf.reports.usage()] == [18_000]
    assert shelf.counters.is_loaded
    assert shelf.last_token_s == {"chat@1": shelf.clock.monotonic_s()}
    text = shelf.metrics.text().decode()
    assert (
        'outpace_requests_total{deployment="chat",engine="echo",outcome="completed",status="2xx"} 1.0' in text
    )
    assert 'outpace_tokens_total{deployment="chat",engine="echo",kind="cached"} 4.0' in text
    assert 'outpace_refused_requests_total{status="401"} 3.0' in text
    assert 'outpace_requests_in_flight{deployment="chat"} 2.0' in text
    assert "outpace_connections 7.0" in text
    assert "key_1" not in text
    writer.close()


def test_a_dead_worker_is_settled_at_its_last_mark_and_its_load_is_gone(shelf: Shelf, home: Home) -> None:
    load = LoadSeen(at_s=1.0, in_flight={"chat": 1}, connections=1)
    writer = _write(home.journal, _reserved("r1"), load, Progressed("r1", 10, 0, 64))
    shelf.books.step()
    assert shelf.reports.receipt("r1") is None
    assert shelf.last_token_s["chat@1"] > 0
    writer.close()
    shelf.books.step()
    shelf.books.step()
    receipt = shelf.reports.receipt("r1")
    assert receipt is not None
    assert (receipt.outcome, receipt.cost_pusd) == ("recovered", 10 * 1_000 + 64 * 2_000)
    assert shelf.counters.spent(3) == receipt.cost_pusd
    assert shelf.reports.balance().is_balanced
    assert 'in_flight{deployment="chat"}' not in shelf.metrics.text().decode()
