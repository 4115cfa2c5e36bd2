"""Ingest, recovery and removal, on both databases."""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from tests.metering.conftest import make_postgres, make_sqlite
from tests.metering.requests import AT_S, PRICE, marked, reserved, settled

from outpace.metering import (
    JournalFile,
    JournalWriter,
    Ledger,
    LedgerUnavailable,
    Reports,
    journal_files,
    tables,
)
from outpace.values import records
from outpace.values.clock import ManualClock
from outpace.values.errors import Conflict
from outpace.values.records import LoadSeen, Record, Refused, Serving
from outpace.values.usage import Usage

_DAY_S = 86_400


def _write(folder: Path, *written: Record, boot_id: str = "boot") -> JournalFile:
    """The journal of a worker that is dead by now."""
    with (folder / f"{boot_id}.jsonl").open("ab") as file:
        file.writelines(records.encode(record) for record in written)
    return JournalFile(folder, boot_id, 0)


def _ledger(engine: sa.Engine) -> Ledger:
    return Ledger(engine, ManualClock(AT_S))


def test_a_request_becomes_a_receipt_usage_and_spending(engine: sa.Engine, tmp_path: Path) -> None:
    file = _write(tmp_path, reserved("one"), marked("one", 10), settled("one"))
    assert _ledger(engine).ingest(file).num_records == 3

    reports = Reports(engine)
    receipt = reports.receipt("one")
    assert receipt is not None
    assert (receipt.key_id, receipt.slot, receipt.price) == ("key_a", 3, PRICE)
    assert receipt.usage == Usage(100, 50, 40)
    assert receipt.cost_pusd == 60 * 1_000 + 40 * 100 + 50 * 3_000
    assert (receipt.replica, receipt.client_request_id, receipt.stream) == ("d@2", "label", True)
    assert reports.receipts(10) == [receipt]
    (line,) = reports.usage()
    assert line.units == {"requests": 1, "prompt_tokens": 100, "completion_tokens": 50, "cached_tokens": 40}
    assert line.cost_pusd == receipt.cost_pusd == reports.key_spend("key_a")
    assert reports.balance().is_balanced
    assert reports.balance().num_open == 0


def test_the_receipt_says_how_it_was_served(engine: sa.Engine, tmp_path: Path) -> None:
    serving = Serving(variant="d@llamacpp", precision="Q4_0", is_proven=False, held_s=1.5, moves=1)
    served = msgspec.structs.replace(settled("one"), serving=serving)
    _ledger(engine).ingest(_write(tmp_path, reserved("one"), served))
    receipt = Reports(engine).receipt("one")
    assert receipt is not None
    assert receipt.serving == serving


def test_reading_again_changes_nothing(engine: sa.Engine, tmp_path: Path) -> None:
    file = _write(tmp_path, reserved("one"), settled("one"), Refused(AT_S, "key_a", "m", 429, "busy", 7))
    _ledger(engine).ingest(file)
    before = _dump(engine)
    assert _ledger(engine).ingest(file).num_records == 0
    assert _dump(engine) == before
    assert Reports(engine).refusals()[0].num_requests == 7


def test_an_open_request_waits_for_its_end(engine: sa.Engine, tmp_path: Path) -> None:
    ledger, reports = _ledger(engine), Reports(engine)
    ledger.ingest(_write(tmp_path, reserved("one", 777)))
    assert (reports.balance().open_pusd, reports.balance().num_open) == (777, 1)
    assert reports.receipt("one") is None
    ledger.ingest(_write(tmp_path, settled("one")))
    assert reports.balance().num_open == 0
    assert reports.balance().is_balanced


def test_a_torn_last_line_waits_and_a_damaged_one_is_skipped(engine: sa.Engine, tmp_path: Path) -> None:
    ledger = _ledger(engine)
    file = _write(tmp_path, reserved("one"))
    line = records.encode(settled("one"))
    with file.path.open("ab") as journal:
        journal.write(b"\0\0damage\n" + b'["s","negative",1,200,"completed",{},-5]\n' + line[:-20])
    assert ledger.ingest(file).num_bad_lines == 2
    assert Reports(engine).receipt("one") is None
    with file.path.open("ab") as journal:
        journal.write(line[-20:])
    assert ledger.ingest(file).num_records == 1
    assert Reports(engine).receipt("one") is not None


def test_recovery_charges_the_last_mark_and_nothing_without_one(engine: sa.Engine, tmp_path: Path) -> None:
    _write(tmp_path, reserved("unsent"), reserved("cut"), marked("cut", 1), marked("cut", 64))
    _write(tmp_path, reserved("free", price=None), marked("free", 5))
    ledger, reports = _ledger(engine), Reports(engine)
    cost_pusd = PRICE.cost_pusd(100, 40, 64)

    recovered = ledger.recover(tmp_path, "boot")
    assert (recovered.num_settled, recovered.cost_pusd) == (3, cost_pusd)
    assert recovered.bases_pusd == {3: cost_pusd} == ledger.bases()
    outcomes = {receipt.request_id: receipt for receipt in reports.receipts(9)}
    assert {receipt.outcome for receipt in outcomes.values()} == {"recovered"}
    assert outcomes["unsent"].cost_pusd == 0
    assert outcomes["cut"].usage == Usage(100, 64, 40)
    assert outcomes["free"].cost_pusd is None
    assert reports.usage()[0].unpriced_requests == 1
    balance = reports.balance()
    assert balance.reserved_pusd - balance.released_pusd - balance.settled_pusd == 0
    assert balance.is_balanced

    before = _dump(engine)
    assert ledger.recover(tmp_path, "boot").num_settled == 0
    assert _dump(engine) == before
    assert ledger.is_retired("boot")


def test_a_settlement_without_reservation_is_kept_and_visible(engine: sa.Engine, tmp_path: Path) -> None:
    _write(tmp_path, settled("orphan"), marked("ghost", 4))
    _ledger(engine).recover(tmp_path, "boot")
    receipt = Reports(engine).receipt("orphan")
    assert receipt is not None
    assert receipt.key_id == ""
    assert Reports(engine).receipt("ghost") is None
    assert Reports(engine).balance().is_balanced
    assert _ledger(engine).bases() == {}


def test_a_living_worker_is_not_recovered(sqlite_engine: sa.Engine, tmp_path: Path) -> None:
    journal = JournalWriter(tmp_path, "boot", sync_every_s=None)
    with pytest.raises(Conflict, match="alive"):
        _ledger(sqlite_engine).recover(tmp_path, "boot")
    journal.close()
    assert _ledger(sqlite_engine).recover(tmp_path, "boot").num_settled == 0


def test_a_locked_database_loses_nothing(sqlite_engine: sa.Engine, tmp_path: Path) -> None:
    file = _write(tmp_path, reserved("one"), settled("one"))
    ledger = _ledger(sqlite_engine)
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LedgerUnavailable, match="wait"):
        ledger.ingest(file)
    other.execute("ROLLBACK")
    other.close()
    assert ledger.ingest(file).num_records == 2
    assert Reports(sqlite_engine).balance().is_balanced


@pytest.fixture
def postgres(postgres_folder: Path) -> Iterator[sa.Engine]:
    """An empty ledger on PostgreSQL."""
    engine = make_postgres(postgres_folder)
    tables.metadata.drop_all(engine)
    tables.metadata.create_all(engine)
    yield engine
    engine.dispose()


def test_a_locked_postgres_loses_nothing(postgres: sa.Engine, tmp_path: Path) -> None:
    file = _write(tmp_path, reserved("one"), settled("one"))
    ledger = _ledger(postgres)
    with postgres.begin() as other:
        other.execute(sa.text("LOCK TABLE journal_files IN ACCESS EXCLUSIVE MODE"))
        with pytest.raises(LedgerUnavailable):
            ledger.ingest(file)
    assert ledger.ingest(file).num_records == 2


def test_a_postgres_that_cuts_connections_or_turns_read_only_loses_nothing(
    postgres: sa.Engine, postgres_folder: Path, tmp_path: Path
) -> None:
    file = _write(tmp_path, reserved("one"), settled("one"))
    ledger = _ledger(postgres)
    assert ledger.bases() == {}
    ended = sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    other = make_postgres(postgres_folder)
    with other.begin() as connection:
        connection.execute(ended)
    other.dispose()
    with pytest.raises(LedgerUnavailable):
        ledger.ingest(file)
    read_only = make_postgres(postgres_folder, "-c default_transaction_read_only=on")
    with pytest.raises(LedgerUnavailable):
        _ledger(read_only).ingest(file)
    read_only.dispose()
    assert ledger.ingest(file).num_records == 2
    assert Reports(postgres).balance().is_balanced


def test_a_database_that_is_away_is_said_to_be(tmp_path: Path) -> None:
    away = make_sqlite(tmp_path / "nowhere" / "ledger.db")
    with pytest.raises(LedgerUnavailable):
        _ledger(away).bases()


def test_days_are_utc_days_of_settlement_whatever_the_clock_does(engine: sa.Engine, tmp_path: Path) -> None:
    midnight_s = AT_S - AT_S % _DAY_S
    instants = [midnight_s - 0.001, midnight_s, midnight_s - 3600, -5.0, 1e300, midnight_s + 31 * _DAY_S]
    for number, at_s in enumerate(instants):
        _write(tmp_path, reserved(f"r{number}"), settled(f"r{number}", at_s=at_s))
    _ledger(engine).ingest(JournalFile(tmp_path, "boot", 0))
    with engine.connect() as connection:
        rows = connection.execute(
            sa.select(tables.usage.c.day, tables.usage.c.quantity).where(tables.usage.c.unit == "requests")
        )
        days = {row.day: row.quantity for row in rows}
    assert days == {"2027-01-14": 2, "2027-01-15": 1, "1970-01-01": 1, "9999-12-31": 1, "2027-02-15": 1}
    assert Reports(engine).usage()[0].units["requests"] == len(instants)
    since = Reports(engine).usage(since_s=midnight_s, key_id="key_a", model="m")
    assert since[0].units["requests"] == 3
    assert Reports(engine).usage(key_id="key_b") == []


def test_a_sum_beyond_64_bits_saturates_or_is_exact(engine: sa.Engine, tmp_path: Path) -> None:
    large = 2**62
    for number in range(3):
        end = records.Settled(f"r{number}", AT_S + number * _DAY_S, 200, "completed", Usage(), large)
        _write(tmp_path, reserved(f"r{number}"), end)
    ledger = _ledger(engine)
    ledger.recover(tmp_path, "boot")
    assert Reports(engine).usage()[0].cost_pusd == 3 * large
    assert ledger.bases() == {3: 2**63 - 1}


def test_files_go_only_when_booked_retired_and_old(sqlite_engine: sa.Engine, tmp_path: Path) -> None:
    clock = ManualClock(AT_S)
    ledger = Ledger(sqlite_engine, clock)
    living = JournalWriter(tmp_path, "living", sync_every_s=None, part_bytes=100)
    for number in range(3):
        living.write(reserved(f"r{number}"))
    _write(tmp_path, reserved("one"), boot_id="dead")
    assert [(file.boot_id, file.part) for file in journal_files(tmp_path)] == [
        ("dead", 0), ("living", 0), ("living", 1), ("living", 2),
    ]  # fmt: skip
    ledger.ingest_folder(tmp_path)
    clock.advance(3600)
    assert ledger.remove_retired(tmp_path, 7200) == []
    assert [path.name for path in ledger.remove_retired(tmp_path, 60)] == ["living.1.jsonl"]
    ledger.recover(tmp_path, "dead")
    clock.advance(3600)
    assert [path.name for path in ledger.remove_retired(tmp_path, 60)] == ["dead.jsonl"]
    living.close()
    ledger.recover(tmp_path, "living")
    assert Reports(sqlite_engine).balance().is_balanced
    assert len(Reports(sqlite_engine).receipts(9)) == 4


def test_a_retired_file_that_comes_back_is_not_booked_again(sqlite_engine: sa.Engine, tmp_path: Path) -> None:
    file = _write(tmp_path, reserved("one"), settled("one"), Refused(AT_S, None, None, 401, "no_key"))
    raw = file.path.read_bytes()
    _ledger(sqlite_engine).recover(tmp_path, "boot")
    file.path.unlink()
    before = _dump(sqlite_engine)
    file.path.write_bytes(raw + raw)
    assert _ledger(sqlite_engine).ingest(file).num_records == 0
    assert _dump(sqlite_engine) == before


def test_the_newest_load_is_told(sqlite_engine: sa.Engine, tmp_path: Path) -> None:
    _write(tmp_path, LoadSeen(AT_S, {"d": 1}, 4), LoadSeen(AT_S + 1, {"d": 2}, 5))
    os.mkdir(tmp_path / "a-folder")
    assert _ledger(sqlite_engine).ingest_folder(tmp_path).loads == {"boot": LoadSeen(AT_S + 1, {"d": 2}, 5)}


def _dump(engine: sa.Engine) -> dict[str, list[tuple[object, ...]]]:
    with engine.connect() as connection:
        return {
            table.name: sorted(tuple(row) for row in connection.execute(sa.select(table)))
            for table in tables.metadata.sorted_tables
        }
