"""What is guessed, and how much of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.engines.lookup import MOST_GUESSED, Guess, Lookup, Others, StepCosts, StepTimes
from outpace.engines.lookup_memory import Memory


def costs_of(first_s: float, last_s: float, anew_s: float = 0.0) -> StepCosts:
    """A step of 1 token, one of 24, and what a change of length takes in addition."""
    return StepCosts(
        tokens=(1, 24), steady_s=(first_s, last_s), changed_s=(first_s + anew_s, last_s + anew_s)
    )


# A step of 24 tokens takes as long as one of 1, and one that takes 24 times as long.
FREE, DEAR = costs_of(0.01, 0.01), costs_of(0.01, 0.24)
TEXT = [*range(100, 140), 7, 8, 9]


def guessed(lookup: Lookup, costs: StepCosts = FREE, others: Others = Others(), room: int = 99) -> list[int]:
    return lookup.guess(StepTimes(plain=costs, guessing=costs), others, room).tokens


def test_what_followed_the_last_time_is_guessed() -> None:
    lookup = Lookup([*TEXT, 1, 2, 100, 101, 102])
    assert guessed(lookup) == TEXT[3 : 3 + MOST_GUESSED]


def test_of_two_places_the_later_one_counts() -> None:
    assert guessed(Lookup([5, 6, 1, 0, 5, 6, 2, 0, 5, 6]), room=1) == [2]


def test_behind_one_token_alone_little_is_guessed() -> None:
    costs = costs_of(0.010, 0.060)
    assert guessed(Lookup([*TEXT, 1, 2, 100]), costs) == []
    assert len(guessed(Lookup([*TEXT, 1, 2, 100, 101]), costs)) > 0
    assert guessed(Lookup([*TEXT, 1, 2, 100]), room=2) == TEXT[1:3]


def test_what_followed_in_an_earlier_answer_is_guessed() -> None:
    memory = Memory()
    memory.learn([*range(200, 240)])
    assert guessed(Lookup([1, 2, 200, 201, 202], memory)) == [*range(203, 203 + MOST_GUESSED)]
    assert guessed(Lookup([1, 2, 200, 201, 202])) == []


def test_a_draft_model_is_asked_where_it_pays() -> None:
    times = StepTimes(plain=costs_of(0.040, 0.060), guessing=costs_of(0.040, 0.060))
    unheard = Lookup([1, 2, 3])
    cheap = unheard.guess(times, Others(), 99, draft_step_s=0.004)
    assert cheap.drafted_s == pytest.approx(0.004 * len(cheap.tokens))
    assert 1 < len(cheap.tokens) < MOST_GUESSED
    assert unheard.guess(times, Others(), 99, draft_step_s=0.040) == Guess()
    # Its steps are the same for all sequences: beside others that draft it costs nothing more.
    beside = unheard.guess(times, Others(1, 3.0, has_guesses=True, drafted_s=0.08), 99, draft_step_s=0.020)
    assert len(beside.tokens) >= 3
    # What the text says itself costs no draft.
    heard = Lookup([*TEXT, 100, 101, 102, 103, 104, 105, 106, 107]).guess(times, Others(), 99, 0.004)
    assert (heard.tokens[0], heard.drafted_s) == (108, 0.0)


def test_a_draft_model_that_is_wrong_is_asked_for_less() -> None:
    times = StepTimes(plain=costs_of(0.040, 0.060), guessing=costs_of(0.040, 0.060))
    lookup = Lookup([1, 2, 3])
    before = lookup.guess(times, Others(), 99, draft_step_s=0.004)
    for _ in range(10):
        lookup.judge(len(lookup.guess(times, Others(), 99, draft_step_s=0.004).tokens), 0)
    assert len(lookup.guess(times, Others(), 99, draft_step_s=0.004).tokens) < len(before.tokens)


def test_of_two_guesses_the_one_that_promises_more_is_made() -> None:
    memory = Memory()
    memory.learn([101, 102, 50, 51, 52])
    lookup = Lookup([*TEXT, 1, 101, 102], memory)
    costs = costs_of(0.011, 0.030)
    first = guessed(lookup, costs)
    assert first[0] == TEXT[3]
    for _ in range(9):
        lookup.judge(len(first), 0)
    # Its kind was wrong nine times here: the other one is tried.
    assert guessed(lookup, costs)[:1] == [50]


def test_there_is_room_for_no_more_than_asked() -> None:
    lookup = Lookup([*TEXT, 100, 101, 102])
    assert len(guessed(lookup, room=4)) == 4
    assert guessed(lookup, room=0) == []


def test_where_a_token_costs_a_step_nothing_is_guessed() -> None:
    assert guessed(Lookup([*TEXT, 100, 101, 102]), DEAR) == []


def test_the_first_guess_of_a_step_with_others_must_promise_more() -> None:
    # 5.67 tokens in 15.4 ms against 5 in 14: 1.03 times as many a second.
    steps_s = (0.010, 0.014, 0.0154, 1.0)
    costs = StepCosts(tokens=(1, 5, 6, 24), changed_s=steps_s, steady_s=steps_s)
    lookup = Lookup([*TEXT, 100, 101, 102])
    assert guessed(lookup, costs, Others(4, 4.0)) == []
    assert len(guessed(lookup, costs, Others(4, 4.0, has_guesses=True))) == 1


def test_a_full_step_is_guessed_into_less_than_an_empty_one() -> None:
    costs = costs_of(0.011, 0.030)
    alone = guessed(Lookup([*TEXT, 100, 101, 102]), costs)
    beside = guessed(Lookup([*TEXT, 100, 101, 102]), costs, Others(16, 16.0))
    assert len(alone) > len(beside)


def test_a_guess_that_does_not_pay_for_the_change_of_length_is_not_made() -> None:
    text = [*TEXT, 1, 101, 102]
    assert guessed(Lookup(text), costs_of(0.02, 0.04, anew_s=0.001))
    assert guessed(Lookup(text), costs_of(0.02, 0.04, anew_s=0.05)) == []
    # Where another one guesses the length changes all the same.
    assert guessed(Lookup(text), costs_of(0.02, 0.04, anew_s=0.05), Others(8, 12.0, has_guesses=True))


def test_wrong_guesses_make_them_short_and_right_ones_long_again() -> None:
    costs = costs_of(0.011, 0.030)
    lookup = Lookup([*TEXT, 100, 101, 102])
    before = len(guessed(lookup, costs))
    for _ in range(20):
        lookup.judge(len(guessed(lookup, costs)) or 1, 0)
    worse = len(guessed(lookup, costs))
    for _ in range(60):
        lookup.judge(8, 8)
    assert worse < before <= len(guessed(lookup, costs))


def test_a_step_is_filled_up_to_the_last_length_where_that_is_quicker() -> None:
    costs = costs_of(0.010, 0.033, anew_s=0.005)
    times = StepTimes(plain=costs, guessing=costs, last=8)
    assert times.length(6) == 8
    assert times.length(2) == 2  # six tokens more take longer than to prepare anew
    assert times.length(9) == 9
    assert times.of(6, has_guesses=True) == times.of(8, has_guesses=True) == pytest.approx(0.017)
    assert times.of(9, has_guesses=True) == pytest.approx(0.023)
    # What guesses nothing is not filled up.
    assert times.of(6, has_guesses=False) == pytest.approx(0.015)


def test_where_a_step_of_the_last_length_costs_little_a_shaky_guess_is_made() -> None:
    lookup = Lookup([*TEXT, 1, 101, 102])
    lookup.judge(8, 1)
    costs = costs_of(0.008, 0.016, anew_s=0.02)
    assert guessed(lookup, costs) == []
    assert lookup.guess(StepTimes(plain=costs, guessing=costs, last=8), Others(), 99).tokens


@given(
    tokens=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    room=st.integers(0, 40),
    seconds=st.tuples(st.floats(0.001, 0.1), st.floats(0.0, 1.0)),
    others=st.tuples(st.integers(0, 64), st.floats(0.0, 64.0)),
)
def test_a_guess_is_a_piece_of_the_text_and_fits(
    tokens: list[int], room: int, seconds: tuple[float, float], others: tuple[int, float]
) -> None:
    first_s, more_s = seconds
    costs = costs_of(first_s, first_s + more_s)
    times = StepTimes(plain=costs, guessing=costs)
    guess = Lookup(tokens).guess(times, Others(*others), room)
    num_guessed = len(guess.tokens)
    assert num_guessed <= min(room, MOST_GUESSED)
    assert 1.0 <= guess.expected <= 1.0 + num_guessed
    assert any(tokens[at : at + num_guessed] == guess.tokens for at in range(len(tokens) + 1))
    assert not guess.drafted_s


@given(
    st.lists(st.tuples(st.integers(1, 200), st.floats(0.001, 1.0)), min_size=1, max_size=8),
    st.integers(1, 400),
)
def test_more_tokens_never_take_less(points: list[tuple[int, float]], num_tokens: int) -> None:
    tokens = tuple(sorted({each for each, _ in points}))
    seconds = tuple(sorted(seconds for _, seconds in points)[: len(tokens)])
    costs = StepCosts(tokens=tokens, steady_s=seconds, changed_s=seconds)
    assert costs.of(num_tokens) <= costs.of(num_tokens + 1) + 1e-12


def test_steps_are_learnt_from_and_a_slower_machine_is_slower_for_all() -> None:
    costs = costs_of(0.010, 0.040, anew_s=0.005)
    for _ in range(100):
        costs = costs.seen(1, 0.020, is_steady=True)
    assert costs.of(1, is_steady=True) == pytest.approx(0.020, rel=0.01)
    # What was not seen moved along, in the same order.
    assert costs.of(1, is_steady=True) < costs.of(1) < costs.of(12) < costs.of(24)
    assert 0.04 < costs.of(24) < 0.09
    for _ in range(200):
        costs = costs.seen(12, 0.030, is_steady=False).seen(1, 0.020, is_steady=True)
    assert costs.of(12) == pytest.approx(0.030, rel=0.15)
    assert costs.of(1, is_steady=True) == pytest.approx(0.020, rel=0.15)


def test_longer_steps_are_reckoned_and_then_learnt() -> None:
    costs = costs_of(0.010, 0.033, anew_s=0.005).reckoned((48, 96))
    assert costs.of(48, is_steady=True) == pytest.approx(0.057)
    assert costs.of(96) == pytest.approx(0.110)
    for _ in range(200):
        costs = costs.seen(48, 0.100, is_steady=True).seen(1, 0.010, is_steady=True)
    assert costs.of(48, is_steady=True) == pytest.approx(0.100, rel=0.1)
    assert costs.of(1, is_steady=True) == pytest.approx(0.010, rel=0.1)


def test_one_step_that_was_held_up_is_not_believed() -> None:
    costs = costs_of(0.010, 0.040)
    assert costs.seen(1, 3.0, is_steady=True).of(1, is_steady=True) < 0.0115
