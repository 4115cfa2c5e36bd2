"""Late, doubled, shuffled, split: whatever order records come in, the books end the same."""

from itertools import pairwise
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.metering.conftest import make_sqlite
from tests.metering.requests import AT_S, marked, reserved, settled

from outpace.metering import JournalFile, Ledger, Reports, tables
from outpace.values import records
from outpace.values.clock import ManualClock
from outpace.values.records import Record, Refused

_BOOT = "boot"


def _story(number: int) -> list[Record]:
    """All records of one request; some never end, some have no price, some lost their Reserved."""
    name = f"r{number}"
    price = None if number % 5 == 4 else reserved("x").price
    end = settled(name, 30 + number, at_s=AT_S + number * 40_000, price=price)
    start = reserved(name, 10**6, key_id=f"key_{number % 2}", slot=number % 2, price=price)
    kinds: list[list[Record]] = [
        [start, marked(name, 1), marked(name, 20), end],
        [start, end],
        [start, marked(name, 7), marked(name, 3)],
        [end],
        [start],
    ]
    return kinds[number % 5 if number < 5 else number % 3]


_STORY = [record for number in range(9) for record in _story(number)]
_REFUSED = Refused(AT_S, "key_0", None, 429, "insufficient_quota", 2)
# A refusal has no id: it is counted as often as it was written, so it is not doubled here.
_scripts = st.tuples(
    st.permutations(_STORY), st.lists(st.sampled_from(_STORY), max_size=8), st.integers(0, len(_STORY))
).map(lambda drawn: [*drawn[0][: drawn[2]], _REFUSED, *drawn[1], *drawn[0][drawn[2] :]])


class _Books:
    """A ledger on a file, made empty again for every example."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engine = make_sqlite(folder / "ledger.db")
        tables.metadata.create_all(self.engine)
        self.file = JournalFile(folder, _BOOT, 0)

    def book(self, lines: list[bytes], cuts: list[int], most_records: int) -> Ledger:
        """Append the bytes cut anywhere, and read after every piece, with a new ledger each time."""
        with self.engine.begin() as connection:
            for table in tables.metadata.sorted_tables:
                connection.execute(table.delete())
        raw = b"".join(lines)
        edges = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
        self.file.path.write_bytes(b"")
        ledger = Ledger(self.engine, ManualClock(AT_S))
        for start, end in pairwise(edges):
            with self.file.path.open("ab") as file:
                file.write(raw[start:end])
            ledger = Ledger(self.engine, ManualClock(AT_S))
            while not ledger.ingest_batch(self.file, most_records).is_at_end:
                pass
        return ledger

    def dump(self) -> dict[str, list[tuple[object, ...]]]:
        """All that is booked, but for how far which file was read."""
        with self.engine.connect() as connection:
            return {
                table.name: sorted(map(tuple, connection.execute(sa.select(table))), key=repr)
                for table in tables.metadata.sorted_tables
                if table is not tables.journal_files
            }


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> _Books:
    return _Books(tmp_path_factory.mktemp("books"))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_scripts, st.lists(st.integers(0, 10**6), max_size=4), st.integers(1, 9))
def test_any_order_split_and_doubling_books_the_same(
    books: _Books, script: list[Record], cuts: list[int], most_records: int
) -> None:
    in_order = [records.encode(record) for record in [*_STORY, _REFUSED]]
    ledger = books.book(in_order, [], 1000)
    before = books.dump()
    ledger.recover(books.folder, _BOOT)
    after = books.dump()

    ledger = books.book([records.encode(record) for record in script], cuts, most_records)
    assert books.dump() == before
    assert Reports(books.engine).balance().is_balanced
    ledger.recover(books.folder, _BOOT)
    assert books.dump() == after
    balance = Reports(books.engine).balance()
    assert balance.is_balanced
    assert (balance.num_open, balance.open_pusd) == (0, 0)
