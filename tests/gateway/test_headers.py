"""Durations as OpenAI writes them."""

import pytest

from outpace.gateway.headers import duration_text


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [(0, "0ms"), (0.012, "12ms"), (1, "1s"), (1.5, "1.5s"), (360, "6m0s"), (3_661, "1h1m1s")],
)
def test_durations_are_text(duration_s: float, text: str) -> None:
    assert duration_text(duration_s) == text
