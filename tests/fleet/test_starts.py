"""Bills of starts: their phases, their file, and a remedy for each."""

from pathlib import Path

import pytest

from outpace.fleet.starts import MOST_KEPT, StartHistory, phases_told, remedy
from outpace.values.starts import OTHER, PHASES, StartBill, start_bill


def _bill(total_s: float = 1.0, **phases: float) -> StartBill:
    return start_bill("chat@1", 5.0, total_s, phases, "nothing")


def test_a_bill_has_its_phases_in_order_and_what_lies_between() -> None:
    bill = _bill(1.0, load=0.5, place=0.1, unheard_of=9.0)
    assert list(bill.phases) == ["place", "load", OTHER]
    assert bill.phases[OTHER] == pytest.approx(0.4)
    assert bill.slowest == "load"


def test_phases_that_pass_the_total_by_a_clock_tick_leave_nothing_between() -> None:
    assert _bill(1.0, load=1.01).phases[OTHER] == 0.0


@pytest.mark.parametrize("line", ["", "not json", "[1]", '{"phases":{"load":"long"}}'])
def test_a_line_that_tells_no_phases_is_none(line: str) -> None:
    assert phases_told(line) == {}


def test_a_line_tells_phases() -> None:
    assert phases_told('{"event":"replica_listening","address":"x","phases":{"load":0.5}}') == {"load": 0.5}


def test_the_last_bills_are_kept_and_outlive_control(tmp_path: Path) -> None:
    history = StartHistory(tmp_path / "starts")
    for number in range(MOST_KEPT + 5):
        history.add("chat", _bill(float(number)))
    kept = StartHistory(tmp_path / "starts").of("chat")
    assert [bill.total_s for bill in kept] == [float(number) for number in range(5, MOST_KEPT + 5)]
    assert kept == history.of("chat")


def test_a_damaged_or_forgotten_history_is_an_empty_one(tmp_path: Path) -> None:
    history = StartHistory(tmp_path)
    history.add("chat", _bill())
    (tmp_path / "chat.json").write_text("{")
    assert StartHistory(tmp_path).of("chat") == []
    history.forget("chat")
    history.forget("chat")
    assert not (tmp_path / "chat.json").exists()


def test_every_phase_has_a_remedy() -> None:
    assert all(remedy(phase) for phase in (*PHASES, OTHER))
