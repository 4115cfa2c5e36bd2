"""Several processes at once on one key: limits hold exactly, and nobody waits for the dead."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.metering.crowd import BUDGET_PUSD, PRICE_PUSD, RPM, SLOT

from outpace.metering import Counters
from outpace.values.errors import Overloaded

_ROOT = Path(__file__).parents[2]


@contextmanager
def _crowd(path: Path, act: str, num_processes: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that have their column and wait for the word."""
    commands = [
        [sys.executable, "-m", "tests.metering.crowd", str(path), f"{act}-{number}", act]
        for number in range(num_processes)
    ]
    pipe = subprocess.PIPE
    crowd = [subprocess.Popen(command, cwd=_ROOT, stdin=pipe, stdout=pipe, text=True) for command in commands]
    try:
        assert [_line(process) for process in crowd] == ["ready"] * num_processes
        yield crowd
    finally:
        for process in crowd:
            process.kill()
            process.communicate(timeout=30)


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _go(crowd: "list[subprocess.Popen[str]]") -> None:
    for process in crowd:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


@pytest.fixture
def counters(tmp_path: Path) -> Counters:
    counters = Counters.open(tmp_path / "counters")
    counters.load_bases({})
    return counters


def test_of_200_requests_in_4_processes_exactly_the_5_affordable_pass(
    counters: Counters, tmp_path: Path
) -> None:
    with _crowd(tmp_path / "counters", "reserve", 4) as crowd:
        _go(crowd)
        assert sum(int(_line(process)) for process in crowd) == 5
    assert counters.reserved(SLOT) == 5 * PRICE_PUSD
    # The processes are dead; their columns still hold what they held.
    assert not counters.claim_column("next").reserve(SLOT, PRICE_PUSD, BUDGET_PUSD)
    for boot_id in counters.owners():
        counters.retire_column(boot_id, {})
    assert counters.reserved(SLOT) == 0


def test_settling_and_reserving_at_once_loses_no_cent(counters: Counters, tmp_path: Path) -> None:
    with _crowd(tmp_path / "counters", "settle", 4) as crowd:
        _go(crowd)
        num_won = sum(int(_line(process)) for process in crowd)
    assert num_won >= 5
    assert counters.reserved(SLOT) == 0
    assert counters.spent(SLOT) == num_won * (PRICE_PUSD - 3) <= BUDGET_PUSD


def test_no_interleaving_of_processes_ever_exceeds_the_budget(counters: Counters, tmp_path: Path) -> None:
    with _crowd(tmp_path / "counters", "churn", 4) as crowd:
        _go(crowd)
        assert [_line(process) for process in crowd] == ["0"] * 4
    assert counters.reserved(SLOT) == counters.spent(SLOT) == 0


def test_requests_per_minute_are_one_limit_for_all_processes(counters: Counters, tmp_path: Path) -> None:
    with _crowd(tmp_path / "counters", "take", 4) as crowd:
        _go(crowd)
        assert sum(int(_line(process)) for process in crowd) == RPM


def test_a_stopped_holder_delays_one_key_by_a_bounded_time_and_a_killed_one_nobody(
    counters: Counters, tmp_path: Path
) -> None:
    column = counters.claim_column("mine")
    with _crowd(tmp_path / "counters", "hold_lock", 1) as (holder,):
        _go([holder])
        assert _line(holder) == "held"
        holder.send_signal(signal.SIGSTOP)
        with pytest.raises(Overloaded):
            column.reserve(SLOT, 1, BUDGET_PUSD)
        # A settlement does not fail for it, and other keys do not notice.
        column.settle(SLOT, 0, 7)
        assert column.reserve(SLOT + 1, 1, BUDGET_PUSD)
        holder.kill()
        holder.wait(timeout=30)
        assert column.reserve(SLOT, 1, BUDGET_PUSD)
    assert counters.spent(SLOT) == 7
