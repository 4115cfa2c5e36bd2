"""Processes that kill themselves: `python -m tests.metering.doomed worker|control POINT FOLDER`."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from tests.metering.requests import marked, reserved, settled

from outpace.metering import Counters, JournalWriter, Meter, counters
from outpace.metering.countersfile import BASE, OWNER_WORDS, OWNERS, column_word, row_word
from outpace.values.clock import SystemClock

SLOT = 3
BUDGET_PUSD = 3_000_000
HELD_PUSD = 1_000_000
# One of another key, closed before anything dies.
BEFORE = "before"
DOOMED = "doomed"


def die() -> None:
    """As `kill -9` does: no cleanup of any kind."""
    os.kill(os.getpid(), signal.SIGKILL)


class DyingWords:
    """Words of the counters; the process dies right before or after one of them is stored."""

    def __init__(self, words: "memoryview[int]", index: int, *, is_before: bool) -> None:
        self._words = words
        self._index = index
        self._is_before = is_before

    def __getitem__(self, index: Any) -> Any:
        return self._words[index]

    def __setitem__(self, index: int, value: int) -> None:
        if index == self._index and self._is_before:
            die()
        self._words[index] = value
        if index == self._index:
            die()


def worker(point: str, folder: Path) -> None:
    """One life of a gateway worker: one closed request, then one that dies at `point`."""
    writer = JournalWriter(folder, "boot", sync_every_s=None)
    if point == "journal_made":
        die()
    shared = Counters.open(folder / "counters")
    column = shared.claim_column("boot")
    meter = Meter(writer, column, SystemClock())
    meter.hold(SLOT, HELD_PUSD, HELD_PUSD, BUDGET_PUSD)
    meter.open(reserved(BEFORE, HELD_PUSD, slot=SLOT))
    meter.close(settled(BEFORE, 10))
    if point == "idle":
        die()
    if point == "row_locked":
        column._words = _dying(shared, column_word(SLOT, 0) + 1, is_before=True)
    meter.hold(SLOT, HELD_PUSD, HELD_PUSD, BUDGET_PUSD)
    if point == "held":
        die()
    _write_torn_when(point == "reservation_torn")
    meter.open(reserved(DOOMED, HELD_PUSD, slot=SLOT))
    if point == "opened":
        die()
    meter.mark(marked(DOOMED, 20))
    if point == "marked":
        die()
    _write_torn_when(point == "settlement_torn")
    if point == "settlement_written":
        column._words = _dying(shared, column_word(SLOT, 0), is_before=True)
    if point == "cost_counted":
        column._words = _dying(shared, column_word(SLOT, 0), is_before=False)
    meter.close(settled(DOOMED, 50))
    print("end", flush=True)
    die()


def control(point: str, folder: Path) -> None:
    """A control that dies while it closes the books of a dead worker."""
    from tests.metering.conftest import make_sqlite

    from outpace.metering import Ledger, books, settle_the_dead

    shared = Counters.open(folder / "counters")
    ledger = Ledger(make_sqlite(folder / "ledger.db"), SystemClock())
    if point == "before_anything":
        die()
    if point == "booking":
        _die_in(books, "move")
    if point == "booked":
        ledger.ingest_folder(folder)
        die()
    if point == "recovering":
        _die_in(books, "retire")
    if point == "recovered":
        _die_in(counters.Counters, "retire_column")
    if point == "base_set":
        shared.words = _dying(shared, row_word(SLOT) + BASE, is_before=False)
    if point == "settled_cleared":
        shared.words = _dying(shared, column_word(SLOT, 0), is_before=False)
    if point == "column_cleared":
        shared.words = _dying(shared, OWNERS + 0 * OWNER_WORDS, is_before=True)
    settle_the_dead(ledger, shared, folder)
    print("end", flush=True)
    die()


def _dying(shared: Counters, index: int, *, is_before: bool) -> Any:
    return DyingWords(shared.words, index, is_before=is_before)


def _die_in(owner: Any, name: str) -> None:
    mock.patch.object(owner, name, side_effect=lambda *_: die()).start()


def _write_torn_when(is_wanted: bool) -> None:
    if not is_wanted:
        return
    write: Callable[[int, bytes], int] = os.write

    def write_half_and_die(fd: int, line: bytes) -> int:
        write(fd, line[: len(line) // 2])
        die()
        raise AssertionError("unreachable")

    mock.patch("os.write", write_half_and_die).start()


if __name__ == "__main__":
    {"worker": worker, "control": control}[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))
