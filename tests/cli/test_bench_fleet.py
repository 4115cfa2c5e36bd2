"""`outpace bench fleet`: what it prints, and what it refuses."""

import json
from collections.abc import Callable

import pytest
from typer.testing import Result

from outpace.values.errors import InvalidInput

Outpace = Callable[..., Result]


def test_it_says_what_was_compared_and_on_what_basis(outpace: Outpace) -> None:
    words = ("bench", "fleet", "--minutes", "6", "--rate", "3", "--max", "4", "--usd-hour", "2.00")
    said = outpace(*words).output
    for told in ("outpace", "reactive", "fixed", "not measured in this home", "0 to 4", "USD"):
        assert told in said
    told = json.loads(outpace(*words, "--json").output)
    assert told["policies"][0]["policy"] == "outpace"
    assert float(told["policies"][0]["usd"]) > 0


@pytest.mark.parametrize(
    "words",
    [("--trace", "storm"), ("--min", "3", "--max", "2"), ("--usd-hour", "much"), ("--trace", "x.csv")],
)
def test_wrong_options_are_refused_by_name(outpace: Outpace, words: tuple[str, ...]) -> None:
    refused = outpace("bench", "fleet", *words).exception
    assert isinstance(refused, InvalidInput)
