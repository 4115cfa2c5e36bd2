import pytest
from tests.lab.test_layers import run

from outpace.lab.compare import cut, gain_of
from outpace.lab.speculating import points_of
from outpace.lab.workload import conversations, named


def test_answers_are_cut_and_questions_stay() -> None:
    asked = conversations(named("code"), 3)
    short = cut(asked, 10)
    assert [talk.turns[0].text for talk in short] == [talk.turns[0].text for talk in asked]
    assert {turn.output_tokens for talk in short for turn in talk.turns} == {10}
    assert cut(asked, None) == asked


def test_gains_become_points_of_a_profile() -> None:
    runs = [run("off", "code", 1, 50.0), run("ngram", "code", 1, 100.0), run("ngram", "code", 8, 90.0)]
    assert gain_of(runs, "ngram", "off", "code", 1) == pytest.approx(2.0)
    assert gain_of(runs, "ngram", "off", "code", 8) is None
    (point,) = points_of(runs)
    assert (point.method, point.users) == ("ngram", 1)
    assert point.gain == pytest.approx(2.0)
