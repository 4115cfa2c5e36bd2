"""Measures of one item: divergence is a lower bound, collapse is found, JSON is compared by meaning."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.precision.small import step

from outpace.precision.items import Item, Turn
from outpace.precision.measures import compare, divergence, is_collapsed, is_same_json
from outpace.precision.traces import Trace

weights = st.lists(st.floats(0.01, 1.0), min_size=6, max_size=6)


def log_shares(raw: list[float]) -> list[float]:
    return [math.log(value / sum(raw)) for value in raw]


@given(weights, weights, st.integers(1, 5))
def test_a_listed_part_never_shows_more_than_the_whole(p: list[float], q: list[float], listed: int) -> None:
    log_p, log_q = log_shares(p), log_shares(q)
    whole = sum(math.exp(a) * (a - b) for a, b in zip(log_p, log_q, strict=True))
    order = sorted(range(6), key=lambda token: -log_p[token])[:listed]
    shown = divergence({token: log_p[token] for token in order}, dict(enumerate(log_q)))
    assert -1e-9 <= shown <= whole + 1e-6


@given(weights)
def test_the_same_distribution_does_not_diverge(p: list[float]) -> None:
    assert divergence(dict(enumerate(log_shares(p))), dict(enumerate(log_shares(p)))) == pytest.approx(
        0, abs=1e-6
    )


def test_a_candidate_that_does_not_even_list_the_reference_is_far_away() -> None:
    assert divergence({1: math.log(0.95)}, {2: math.log(0.9), 3: math.log(0.001)}) > 3


@pytest.mark.parametrize(
    ("text", "collapsed"),
    [
        ("The sea is blue. " * 12, True),
        ("a" * 200, True),
        ("It began well and then " + "no no " * 40, True),
        ("ha ha ha", False),
        (
            "A long answer that says many different things about the sea, the wind, the sails and the crew. "
            * 1,
            False,
        ),
        ("", False),
    ],
)
def test_collapse(text: str, collapsed: bool) -> None:
    assert is_collapsed(text) is collapsed


def test_json_is_compared_by_meaning() -> None:
    assert is_same_json('{"a": 1, "b": 2}', '{"b":2,"a":1}')
    assert not is_same_json('{"a": 1}', '{"a": 2}')
    assert not is_same_json('{"a": 1}', '{"a": ')


def test_compare_finds_where_the_texts_part() -> None:
    item = Item(id="x", messages=(Turn("user", "hello"),))
    said = Trace("x", "text", (step(-0.1, -3.0),) * 3)
    own = [step(-0.1, -3.0), step(-0.9, -0.5), step(-0.1, -3.0)]
    result = compare(item, said, own, ("fine", "no " * 60))
    assert result.diverged_at == 1
    assert result.disagreement == pytest.approx(1 / 3)
    assert result.collapse == 1.0
    assert compare(item, said, own, ("no " * 60, "fine")).collapse == -1.0
    assert result.loss_increase == pytest.approx(0.8 / 3)
