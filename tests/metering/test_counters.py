"""The shared counters: budgets, columns, buckets, and what may happen to the file."""

from pathlib import Path

import pytest

from outpace.metering import Counters, CountersNotLoaded, JournalWriter
from outpace.metering.countersfile import LAYOUT, MACHINE, NUM_COLUMNS, NUM_SLOTS
from outpace.values.errors import Conflict, Overloaded

_SLOT = 7


@pytest.fixture
def counters(tmp_path: Path) -> Counters:
    counters = Counters.open(tmp_path / "counters")
    counters.load_bases({})
    return counters


def test_a_budget_holds_between_workers(counters: Counters, tmp_path: Path) -> None:
    one = counters.claim_column("one")
    other = Counters.open(tmp_path / "counters").claim_column("two")
    assert one.reserve(_SLOT, 60, 100)
    assert not other.reserve(_SLOT, 41, 100)
    assert other.reserve(_SLOT, 40, 100)
    one.settle(_SLOT, 60, 10)
    assert (other.spent(_SLOT), one.reserved(_SLOT)) == (10, 40)
    assert other.reserve(_SLOT, 50, 100)
    assert not one.reserve(_SLOT, 1, 100)
    assert one.reserve(_SLOT, 0, 100)
    assert counters.spent(_SLOT + 1) == counters.reserved(_SLOT + 1) == 0


def test_a_request_without_limit_gets_what_is_left(counters: Counters) -> None:
    column = counters.claim_column("one")
    assert column.reserve_up_to(_SLOT, 10, 70, 100) == 70
    assert column.reserve_up_to(_SLOT, 31, 70, 100) == 0
    assert column.reserve_up_to(_SLOT, 10, 70, 100) == 30
    assert column.reserve_up_to(_SLOT, 1, 10**15, None) == 10**15
    assert column.reserved(_SLOT) == 100 + 10**15
    with pytest.raises(ValueError, match="cannot reserve"):
        column.reserve_up_to(_SLOT, 10, 5, 100)


def test_an_amount_beyond_the_books_is_refused(counters: Counters) -> None:
    column = counters.claim_column("one")
    assert not column.reserve(_SLOT, 2**62 + 1, None)
    column.settle(_SLOT, 0, 2**63)
    assert not column.reserve(_SLOT, 1, 10**18)


def test_what_was_never_reserved_cannot_be_settled(counters: Counters) -> None:
    column = counters.claim_column("one")
    column.reserve(_SLOT, 5, None)
    for reserved_pusd, cost_pusd in ((6, 0), (-1, 0), (5, -1)):
        with pytest.raises(ValueError, match="never reserved"):
            column.settle(_SLOT, reserved_pusd, cost_pusd)
    assert (column.reserved(_SLOT), column.spent(_SLOT)) == (5, 0)


def test_budgets_are_refused_until_spending_is_known(tmp_path: Path) -> None:
    counters = Counters.open(tmp_path / "counters")
    column = counters.claim_column("one")
    with pytest.raises(CountersNotLoaded):
        column.reserve(_SLOT, 1, 100)
    assert column.reserve(_SLOT, 1, None)
    counters.load_bases({_SLOT: 100})
    assert not column.reserve(_SLOT, 1, 101)
    assert column.spent(_SLOT) == 100


def test_retiring_a_column_replaces_it_by_the_ledgers_sum_again_and_again(counters: Counters) -> None:
    dead, living = counters.claim_column("dead"), counters.claim_column("living")
    dead.settle(_SLOT + 1, 0, 5)
    for column in (dead, living):
        column.reserve(_SLOT, 50, None)
        column.settle(_SLOT, 20, 15)
    for _ in range(2):
        counters.retire_column("dead", {_SLOT: 40})
        assert (counters.spent(_SLOT), counters.reserved(_SLOT)) == (55, 30)
        assert counters.spent(_SLOT + 1) == 0
        assert counters.owners() == ["living"]
    assert counters.claim_column("next").reserved(_SLOT) == 30


def test_a_life_has_one_column_and_columns_are_limited(counters: Counters) -> None:
    for number in range(NUM_COLUMNS):
        counters.claim_column(f"boot-{number}")
    with pytest.raises(Conflict):
        counters.claim_column("boot-0")
    with pytest.raises(Overloaded, match="64 columns"):
        counters.claim_column("one-more")
    counters.retire_column("boot-9", {})
    counters.claim_column("one-more")
    with pytest.raises(ValueError, match="boot id"):
        counters.claim_column("../etc")


def test_a_slot_outside_the_file_is_refused(counters: Counters) -> None:
    column = counters.claim_column("one")
    assert column.reserve(NUM_SLOTS - 1, 1, None)
    for slot in (-1, NUM_SLOTS):
        with pytest.raises(IndexError):
            column.reserve(slot, 1, None)


def test_rates_are_shared_and_tokens_can_be_given_back(counters: Counters, tmp_path: Path) -> None:
    one = counters.claim_column("one")
    other = Counters.open(tmp_path / "counters").claim_column("two")
    assert one.take(_SLOT, 2, 100, 80, 50.0).remaining_tokens == 20
    assert other.take(_SLOT, 2, 100, 30, 50.0).hit == "tokens"
    one.give_back_tokens(_SLOT, 70, 100)
    assert other.take(_SLOT, 2, 100, 30, 50.0).remaining_tokens == 60
    assert one.take(_SLOT, 2, 100, 1, 50.0).hit == "requests"
    assert one.take(_SLOT, None, None, 1, 50.0).is_allowed
    one.give_back_tokens(_SLOT, 10**6, 100)
    assert one.take(_SLOT, None, 100, 1, 50.0).remaining_tokens == 99


def test_numbers_survive_a_restart_of_every_process(tmp_path: Path) -> None:
    counters = Counters.open(tmp_path / "counters")
    counters.claim_column("one").settle(_SLOT, 0, 9)
    counters.load_bases({_SLOT: 4})
    counters.close()
    again = Counters.open(tmp_path / "counters")
    assert again.is_loaded
    assert (again.spent(_SLOT), again.owners()) == (13, ["one"])


@pytest.mark.parametrize("word", [LAYOUT, MACHINE])
def test_a_file_of_another_layout_or_machine_start_is_made_anew_unless_in_use(
    tmp_path: Path, word: int
) -> None:
    path = tmp_path / "counters"
    user = Counters.open(path)
    user.load_bases({_SLOT: 4})
    user.words[word] += 1
    with pytest.raises(Conflict, match="in use by another version"):
        Counters.open(path)
    user.close()
    fresh = Counters.open(path)
    assert not fresh.is_loaded
    assert fresh.spent(_SLOT) == 0


def test_garbage_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "counters"
    path.write_bytes(b"not a counters file")
    assert not Counters.open(path).is_loaded
    # Sparse: only rows in use take room.
    assert path.stat().st_blocks * 512 < 200_000


def test_the_journal_of_a_life_can_take_any_boot_id_that_a_column_can(
    counters: Counters, tmp_path: Path
) -> None:
    boot_id = "b" * 56
    counters.claim_column(boot_id)
    JournalWriter(tmp_path, boot_id, sync_every_s=None).close()
    assert counters.owners() == [boot_id]
