"""How many replicas there shall be."""

import pytest

from outpace.scheduling.autoscale import Bounds, Pressure, next_count

SLEEPS = Bounds(least=0, most=2, idle_s=60.0)


@pytest.mark.parametrize(
    ("count", "bounds", "pressure", "expected"),
    [
        (0, SLEEPS, Pressure(), 0),
        (0, SLEEPS, Pressure(waiting=1), 1),
        # One start for any number of callers.
        (0, SLEEPS, Pressure(waiting=1_000), 1),
        (0, SLEEPS, Pressure(running=1), 0),
        (1, SLEEPS, Pressure(idle_for_s=59.9), 1),
        (1, SLEEPS, Pressure(idle_for_s=60.0), 0),
        (0, Bounds(least=1), Pressure(idle_for_s=9_999.0), 1),
        (1, Bounds(least=1), Pressure(idle_for_s=9_999.0), 1),
        (5, Bounds(least=1, most=3), Pressure(running=1), 3),
    ],
)
def test_from_and_to_zero(count: int, bounds: Bounds, pressure: Pressure, expected: int) -> None:
    assert next_count(count, bounds, pressure).count == expected
