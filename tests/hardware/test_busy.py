"""How busy the machine is, from the kernel's counters."""

import asyncio
from pathlib import Path

import pytest

from outpace.hardware.busy import busy_share
from outpace.values.clock import ManualClock


class Counted(ManualClock):
    """Time that passes at once, and moves the kernel's counters."""

    def __init__(self, path: Path, states: list[int]) -> None:
        super().__init__()
        self.path, self.states = path, states
        self.write([0] * 10)

    def write(self, states: list[int]) -> None:
        self.path.write_text(f"cpu  {' '.join(map(str, states))}\ncpu0 1 2 3\n", encoding="ascii")

    async def sleep(self, duration_s: float) -> None:
        self.advance(duration_s)
        self.write(self.states)


@pytest.mark.parametrize(
    ("states", "share"),
    [
        # user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice
        ([0, 0, 0, 200, 0, 0, 0, 0, 0, 0], 0.0),
        ([100, 0, 0, 100, 0, 0, 0, 0, 90, 0], 0.5),
        ([10, 10, 10, 100, 50, 5, 5, 10, 0, 0], 0.25),
    ],
)
def test_whatever_is_not_idle_is_busy(tmp_path: Path, states: list[int], share: float) -> None:
    path = tmp_path / "stat"
    assert asyncio.run(busy_share(Counted(path, states), 1.0, path)) == pytest.approx(share)


def test_nothing_is_claimed_where_nothing_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "stat"
    assert asyncio.run(busy_share(Counted(path, [0] * 10), 1.0, path)) is None
    assert asyncio.run(busy_share(Counted(path, [1, 2, 3]), 1.0, path)) is None
    assert asyncio.run(busy_share(Counted(path, [1]), 1.0, tmp_path / "none")) is None
