import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.scheduling.speculation import (
    ENOUGH_ANSWERS,
    ENOUGH_GUESSES,
    HARMLESS,
    SLICE,
    WORTH,
    Record,
    choose_method,
    gate,
    kill_reason,
    noted,
)
from outpace.values.profile import SpeculationPoint
from outpace.values.snapshot import SpeculationBand

BANDS = (
    SpeculationBand(method="ngram", most_users=1, gain=2.0),
    SpeculationBand(method="ngram", most_users=8, gain=1.1),
    SpeculationBand(method="ngram", most_users=32, gain=0.8),
)
NO_SLICE = 0.5


def point(
    gain: float,
    users: int = 1,
    workload: str = "code",
    method: str = "ngram",
    drafted: int = 0,
    accepted: int = 0,
) -> SpeculationPoint:
    return SpeculationPoint(
        method=method,
        workload=workload,
        users=users,
        gain=gain,
        drafted_tokens=drafted,
        accepted_tokens=accepted,
    )


def test_the_method_that_wins_most_and_loses_nowhere_is_taken() -> None:
    chosen = choose_method(
        [
            point(2.0), point(1.0, 32, "chat"),
            point(2.4, method="wild"), point(0.8, 32, "chat", method="wild"),
        ]
    )  # fmt: skip
    assert chosen.method == "ngram"
    assert "2.00x on code at 1 at once, never below 1.00x" in chosen.reason


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([], "not measured yet"),
        ([point(2.0)], "only one kind of text"),
        ([point(2.0), point(1.0, 8, "chat")], "measured up to 8 at once only"),
        ([point(2.0), point(0.9, 32, "chat")], "0.90x on chat at 32"),
        ([point(1.02), point(1.0, 32, "chat")], "at most 1.02x"),
    ],
)
def test_without_a_harmless_gain_it_is_off_and_says_why(points: list[SpeculationPoint], words: str) -> None:
    chosen = choose_method(points)
    assert chosen.method is None
    assert words in chosen.reason


@given(st.lists(st.tuples(st.floats(0.2, 5), st.sampled_from([1, 8, 32]), st.sampled_from(["code", "chat"]))))
def test_a_chosen_method_never_lost_anywhere(measured: list[tuple[float, int, str]]) -> None:
    points = [point(*each) for each in measured]
    if choose_method(points).method is not None:
        assert min(each.gain for each in points) >= HARMLESS
        assert max(each.gain for each in points) >= WORTH


def test_a_method_that_live_answers_ended_stays_off() -> None:
    points = [point(2.0), point(1.0, 32, "chat")]
    assert choose_method(points, {"other": "x"}).method == "ngram"
    chosen = choose_method(points, {"ngram": "10% right"})
    assert (chosen.method, chosen.reason) == (None, "ngram was stopped: 10% right")


def test_an_engine_that_is_told_per_request_may_lose_at_some_load() -> None:
    points = [point(2.0), point(0.7, 32, "chat")]
    assert choose_method(points).method is None
    assert choose_method(points, is_switched=True).method == "ngram"


def test_the_gate_follows_the_load() -> None:
    decisions = {users: gate(BANDS, users, Record(), NO_SLICE).speculate for users in (1, 2, 8, 9, 32, 33)}
    assert decisions == {1: True, 2: True, 8: True, 9: False, 32: False, 33: False}
    assert gate((), 1, Record(), NO_SLICE).speculate is False


def test_a_loss_at_a_load_is_no_reason_to_guess_there_and_a_full_replica_stands_for_more() -> None:
    gains = {1: 1.5, 4: 0.95, 16: 1.02}
    bands = [SpeculationBand(method="ngram", most_users=users, gain=gain) for users, gain in gains.items()]
    decisions = {users: gate(bands, users, Record(), NO_SLICE).speculate for users in (1, 2, 16, 40)}
    assert decisions == {1: True, 2: False, 16: True, 40: True}
    # A sweep that ended early says nothing about more.
    assert gate(bands[:2], 5, Record(), NO_SLICE).speculate is False


def test_a_small_slice_goes_the_other_way() -> None:
    assert gate(BANDS, 1, Record(), 0.0).speculate is False
    assert gate(BANDS, 1, Record(), 0.0).is_slice
    # Beside others it would cost them a step.
    assert not gate(BANDS, 8, Record(), 0.0).is_slice
    assert not gate(BANDS, 1, Record(), SLICE).is_slice


def test_live_answers_overrule_the_profile_both_ways() -> None:
    losing = winning = Record()
    for _ in range(ENOUGH_ANSWERS):
        losing = noted(losing, 1, is_on=True, tokens_per_s=50.0)
        losing = noted(losing, 1, is_on=False, tokens_per_s=100.0)
        winning = noted(winning, 32, is_on=True, tokens_per_s=12.0)
        winning = noted(winning, 32, is_on=False, tokens_per_s=10.0)
    assert losing.live_gain(1) == pytest.approx(0.5)
    assert gate(BANDS, 1, losing, NO_SLICE).speculate is False
    assert "0.50x live" in gate(BANDS, 1, losing, NO_SLICE).reason
    assert gate(BANDS, 32, winning, NO_SLICE).speculate is True


def test_a_few_answers_prove_nothing() -> None:
    record = noted(Record(), 1, is_on=True, tokens_per_s=1.0)
    assert record.live_gain(1) is None
    assert gate(BANDS, 1, record, NO_SLICE).speculate is True


@given(st.lists(st.floats(0.1, 1e4), min_size=1, max_size=60))
def test_a_fading_mean_stays_among_what_was_seen(rates: list[float]) -> None:
    import math

    record = Record()
    for rate in rates:
        record = noted(record, 8, is_on=True, tokens_per_s=rate)
    mean = math.exp(record.on[8].log_rate)
    assert min(rates) * 0.999 <= mean <= max(rates) * 1.001


def test_acceptance_needs_guesses_and_kills_when_it_falls() -> None:
    points = [point(2.0, drafted=1000, accepted=600)]
    assert kill_reason(points, "ngram", ENOUGH_GUESSES - 1, 0) is None
    assert kill_reason(points, "ngram", ENOUGH_GUESSES, ENOUGH_GUESSES // 2) is None
    assert "10% of" in (kill_reason(points, "ngram", ENOUGH_GUESSES, ENOUGH_GUESSES // 10) or "")
    assert kill_reason(points, "other", ENOUGH_GUESSES, 0) is None
    record = noted(Record(), 1, is_on=True, tokens_per_s=1.0, drafted=ENOUGH_GUESSES, accepted=5)
    assert record.acceptance == pytest.approx(5 / ENOUGH_GUESSES)
