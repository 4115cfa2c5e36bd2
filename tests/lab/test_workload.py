import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.lab.workload import Lengths, arriving, conversations, named, shipped
from outpace.values.errors import InvalidInput


@pytest.mark.parametrize("name", sorted(shipped()))
def test_the_same_description_gives_the_same_requests_and_a_longer_list_begins_with_the_shorter(
    name: str,
) -> None:
    few, many = conversations(named(name), 5), conversations(named(name), 20)
    assert many[:5] == few
    assert conversations(named(name), 5, seed=99) != few
    assert all(turn.text and turn.output_tokens >= 1 for talk in many for turn in talk.turns)


def test_an_unknown_workload_lists_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match="chat, code, multi-turn"):
        named("chatt")


@given(least=st.integers(1, 50), extra=st.integers(0, 500), mu=st.floats(0, 8), sigma=st.floats(0, 3))
def test_a_lognormal_length_keeps_its_limits(least: int, extra: int, mu: float, sigma: float) -> None:
    lengths = Lengths(kind="lognormal", least=least, most=least + extra, mu=mu, sigma=sigma)
    dice = random.Random(1)
    assert all(least <= lengths.draw(dice) <= least + extra for _ in range(20))


def test_either_draws_both_lengths_with_its_share() -> None:
    drawn = [turn.output_tokens for talk in conversations(named("high-variance"), 400) for turn in talk.turns]
    assert set(drawn) == {16, 320}
    assert 0.18 < drawn.count(320) / 400 < 0.32


def test_conversations_of_multi_turn_share_their_beginning() -> None:
    talks = conversations(named("multi-turn"), 6)
    assert len({talk.before[0]["content"] for talk in talks}) == 1
    assert {len(talk.turns) for talk in talks} <= {3, 4, 5, 6}


def test_arrivals_have_the_rate_asked_for() -> None:
    asked = conversations(named("chat"), 400)
    assert [talk.at_s for talk in arriving(asked, "even", 4.0)][:3] == [0.0, 0.25, 0.5]
    last_s = arriving(asked, "poisson", 10.0)[-1].at_s
    assert last_s is not None
    assert 32 < last_s < 48
    assert {talk.at_s for talk in arriving(asked, "at_once", 0.0)} == {0.0}
    with pytest.raises(InvalidInput, match="above 0"):
        arriving(asked, "poisson", 0.0)
