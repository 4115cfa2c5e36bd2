"""Steps stay as long as the last one until that has cost what a change costs."""

from hypothesis import given
from hypothesis import strategies as st

from outpace.engines.lookup import StepCosts
from outpace.engines.step_lengths import Length

# A token more takes 1 ms, a change 4.5 ms.
COSTS = StepCosts(tokens=(1, 101), steady_s=(0.010, 0.110), changed_s=(0.0145, 0.1145))


def lengths(wanted: list[int]) -> list[int]:
    length, made = Length(), []
    for each in wanted:
        length = length.next(each, COSTS)
        made.append(length.num_tokens)
    return made


def test_a_step_stays_as_long_while_another_sequence_may_come() -> None:
    assert lengths([32, 31, 31, 32, 31, 31, 31, 31, 32]) == [32] * 9


def test_fillers_end_when_they_have_cost_a_change() -> None:
    assert lengths([32, 31, 31, 31, 31, 31, 31]) == [32, 32, 32, 32, 32, 31, 31]
    assert lengths([32, 30, 30, 30]) == [32, 32, 32, 30]


def test_what_costs_more_than_a_change_at_once_is_not_filled() -> None:
    assert lengths([32, 20]) == [32, 20]


def test_a_longer_step_is_as_long_as_it_must_be() -> None:
    assert lengths([1, 4, 8]) == [1, 4, 8]


@given(st.lists(st.integers(1, 100), min_size=1, max_size=60))
def test_it_costs_at_most_twice_what_no_fillers_would(wanted: list[int]) -> None:
    made = lengths(wanted)
    assert all(each <= length for each, length in zip(wanted, made, strict=True))
    # Beside the tokens that are wanted: what fillers and changes take.
    filled, exact = (
        sum(
            COSTS.of(length, is_steady=length == before) - COSTS.of(each, is_steady=True)
            for before, length, each in zip([0, *steps[:-1]], steps, wanted, strict=True)
        )
        for steps in (made, wanted)
    )
    assert filled <= 2 * exact + 1e-9
