"""Headers to the service itself: deadlines, priorities, labels."""

import pytest

from outpace.gateway.asked import Asked, asked
from outpace.values.errors import InvalidInput


def test_nothing_asked_is_nothing() -> None:
    assert asked([(b"host", b"x"), (b"authorization", b"Bearer x")]) == Asked()


def test_a_deadline_is_in_milliseconds_from_now() -> None:
    assert asked([(b"x-outpace-deadline-ms", b"1500")]).deadline_s == 1.5


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b"0", "has passed already"),
        (b"-5", "has passed already"),
        (b"1763999999000", "not a point in time"),
        (b"soon", "number of milliseconds"),
        (b"nan", "number of milliseconds"),
        (b"inf", "number of milliseconds"),
        (b"", "number of milliseconds"),
    ],
)
def test_a_wrong_deadline_is_refused_by_name(value: bytes, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem) as refused:
        asked([(b"x-outpace-deadline-ms", value)])
    assert refused.value.param == "x-outpace-deadline-ms"


@pytest.mark.parametrize(
    ("name", "value", "deadline_s"),
    [
        (b"x-stainless-read-timeout", b"5", 4.5),
        (b"x-stainless-read-timeout", b"600", 599.0),
        (b"x-stainless-timeout", b"20.0", 19.0),
        (b"x-stainless-timeout", b"NOT_GIVEN", None),
        (b"x-stainless-timeout", b"0", None),
    ],
)
def test_an_sdk_s_own_time_out_is_a_deadline_a_little_earlier(
    name: bytes, value: bytes, deadline_s: float | None
) -> None:
    assert asked([(name, value)]).deadline_s == deadline_s


def test_our_header_wins_over_the_sdk_s() -> None:
    headers = [(b"x-stainless-read-timeout", b"600"), (b"x-outpace-deadline-ms", b"100")]
    assert asked(headers).deadline_s == 0.1


def test_priorities_are_two() -> None:
    assert asked([(b"x-outpace-priority", b"batch")]).priority == "batch"
    assert asked([(b"x-outpace-priority", b"interactive")]).priority == "interactive"
    with pytest.raises(InvalidInput, match="interactive"):
        asked([(b"x-outpace-priority", b"urgent")])


def test_a_label_is_cut() -> None:
    assert asked([(b"x-client-request-id", b"a" * 500)]).label == "a" * 128
