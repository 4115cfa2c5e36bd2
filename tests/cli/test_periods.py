import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.cli.periods import parse_duration_s, parse_since_s
from outpace.values.clock import ManualClock
from outpace.values.errors import InvalidInput


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("12h", 43_200), ("2w", 1_209_600)])
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration_s(text, "--in") == seconds


@given(st.text().filter(lambda text: not text.strip()[:1].isdigit()))
def test_anything_else_is_refused_by_the_options_name(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_duration_s(text, "--in")
    assert refused.value.param == "--in"


def test_since_is_a_duration_back_or_a_date() -> None:
    clock = ManualClock(wall_s=1_800_000_000.0)
    assert parse_since_s("1h", "--since", clock) == 1_799_996_400.0
    assert parse_since_s("2026-11-23T00:00:00+00:00", "--since", clock) == 1_795_392_000.0
    with pytest.raises(InvalidInput, match="--since"):
        parse_since_s("yesterday", "--since", clock)
