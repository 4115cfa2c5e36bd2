"""The canary: rounding is forgiven, another model is not."""

import pytest
from tests.precision.small import FakeScorer, step

from outpace.precision.canary import check, compare_steps, record


async def test_the_same_replica_is_sound() -> None:
    canary = await record(FakeScorer(-0.2, -2.0), "key", 1.0)
    outcome = await check(FakeScorer(-0.25, -1.9), canary)
    assert outcome.is_sound


async def test_another_model_is_found_and_named() -> None:
    canary = await record(FakeScorer(-0.2, -2.0), "key", 1.0)
    outcome = await check(FakeScorer(-2.0, -0.2), canary)
    assert not outcome.is_sound
    assert "canary-1 differs at token 0" in outcome.reason


@pytest.mark.parametrize(
    ("was", "now", "sound"),
    [
        # Two tokens within rounding of each other may change places.
        ((-0.69, -0.70), (-0.71, -0.68), True),
        ((-0.2, -2.0), (-0.6, -0.9), False),
        ((-0.5, -1.0), (-0.55, -0.95), True),
    ],
)
def test_what_counts_as_a_miss(was: tuple[float, float], now: tuple[float, float], sound: bool) -> None:
    assert (compare_steps("x", [step(*was)], [step(*now)]) is None) is sound


def test_a_token_that_is_not_listed_any_more_is_a_miss() -> None:
    seen = step(-0.1, token=0)
    gone = type(seen)(0, {5: -0.1})
    assert compare_steps("x", [seen], [gone]) is not None
