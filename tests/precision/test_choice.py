"""The choice: the fastest that is proven, the shipped artifact until then."""

import pytest
from tests.precision.small import verdict

from outpace.precision.choice import Option, choose, forced, known_bad, next_safer
from outpace.precision.verdict import Outcome
from outpace.values.errors import InvalidInput


def option(
    precision: str, speed: float, outcome: Outcome | None = None, weights_bytes: int = 1, **marks: bool
) -> Option:
    return Option(
        precision=precision,
        output_tokens_per_s=speed,
        speed_basis="measured",
        weights_bytes=weights_bytes,
        verdict=verdict(outcome, precision) if outcome else None,
        is_shipped=marks.get("shipped", False),
        is_reference=marks.get("reference", False),
    )


SHIPPED = option("q4_1", 100, "pass", shipped=True)
REFERENCE = option("f16", 60, reference=True)


def test_the_fastest_proven_format_is_taken_and_says_why() -> None:
    choice = choose([REFERENCE, SHIPPED, option("q4_mix", 145, "pass"), option("q4_0", 160, "refuse")])
    assert (choice.precision, choice.is_proven) == ("q4_mix", True)
    assert "1.45x q4_1" in choice.reason
    assert {(lost.precision, lost.reason.split(":")[0]) for lost in choice.rejected} == {
        ("f16", "not faster"),
        ("q4_1", "not faster"),
        ("q4_0", "refuse"),
    }


def test_until_a_verdict_exists_the_shipped_artifact_serves_and_the_fast_ones_are_to_be_gated() -> None:
    choice = choose([REFERENCE, SHIPPED, option("q4_mix", 145), option("q4_0", 160), option("q8_0", 101)])
    assert choice.precision == "q4_1"
    assert [candidate.precision for candidate in choice.to_gate] == ["q4_0", "q4_mix"]


def test_a_gain_within_noise_is_not_worth_a_switch() -> None:
    assert choose([SHIPPED, option("q8_0", 103, "pass")]).precision == "q4_1"


def test_of_two_that_are_about_as_fast_the_smaller_is_taken() -> None:
    large, small = option("q8_0", 135, "pass", 145), option("q4_fit", 131, "pass", 107)
    assert choose([SHIPPED, large, small]).precision == "q4_fit"
    assert choose([SHIPPED, large, option("q4_mix", 125, "pass", 107)]).precision == "q8_0"


def test_a_smaller_one_about_as_fast_is_gated_too() -> None:
    large = option("q8_0", 135, "pass", 145)
    choice = choose([SHIPPED, large, option("q4_fit", 131, None, 107), option("q4_0", 125, None, 92)])
    assert choice.precision == "q8_0"
    assert [candidate.precision for candidate in choice.to_gate] == ["q4_fit"]


def test_being_smaller_alone_is_no_reason_to_leave_what_was_shipped() -> None:
    shipped = option("q8_0", 100, shipped=True, weights_bytes=145)
    choice = choose([shipped, option("q4_fit", 103, "pass", 107), option("q4_mix", 104, None, 100)])
    assert choice.precision == "q8_0"
    assert not choice.to_gate


def test_a_refused_shipped_artifact_gives_way_to_the_reference() -> None:
    assert choose([REFERENCE, option("q4_1", 100, "refuse", shipped=True)]).precision == "f16"


def test_undecided_is_not_a_pass() -> None:
    assert choose([SHIPPED, option("q4_0", 200, "undecided")]).precision == "q4_1"


def test_without_a_reference_there_is_no_choice() -> None:
    with pytest.raises(InvalidInput):
        choose([option("q4_0", 200, "pass")])


@pytest.mark.parametrize("outcome", ["refuse", "undecided", None])
def test_a_forced_format_without_a_pass_needs_the_flag(outcome: Outcome | None) -> None:
    evidence = verdict(outcome) if outcome else None
    with pytest.raises(InvalidInput, match="allow_unproven"):
        forced("q4_0", "f16", evidence, allows_unproven=False)
    assert not forced("q4_0", "f16", evidence, allows_unproven=True).is_proven


def test_a_forced_format_with_a_pass_needs_none() -> None:
    assert forced("q4_0", "f16", verdict("pass"), allows_unproven=False).is_proven


def test_after_a_failed_canary_the_next_best_is_served_and_it_says_so() -> None:
    options = [REFERENCE, SHIPPED, option("q4_mix", 145, "pass"), option("q8_0", 120, "pass")]
    choice = next_safer(options, frozenset({("q4_mix", "f16")}))
    assert choice.precision == "q8_0"
    assert "canary failed on q4_mix/f16" in choice.reason


def test_known_bad_lists_refusals_only() -> None:
    assert set(known_bad([verdict("refuse", "q4_0"), verdict("pass", "q8_0")])) == {("q4_0", "f16")}
