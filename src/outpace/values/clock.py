"""Time as an argument: the system's clocks, and one that a test moves by hand."""

import time
from typing import TYPE_CHECKING, Protocol

# An engine's process waits for this import when it starts, and has no loop: those that do have imported it.
if TYPE_CHECKING:
    import asyncio


class Clock(Protocol):
    """Two clocks and a wait; durations always come from `monotonic_s`."""

    def wall_s(self) -> float:
        """Seconds since the Unix epoch; may jump."""
        ...

    def monotonic_s(self) -> float:
        """Seconds that only grow, the same for every process of this machine."""
        ...

    async def sleep(self, duration_s: float) -> None:
        """Return after `duration_s`."""
        ...


class SystemClock:
    """The machine's clocks."""

    def wall_s(self) -> float:
        return time.time()

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def sleep(self, duration_s: float) -> None:
        import asyncio

        await asyncio.sleep(duration_s)


class ManualClock:
    """A clock for tests: time passes only through `advance`."""

    def __init__(self, wall_s: float = 1_800_000_000.0) -> None:
        self._wall_s = wall_s
        self._monotonic_s = 1_000.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def wall_s(self) -> float:
        return self._wall_s

    def monotonic_s(self) -> float:
        return self._monotonic_s

    async def sleep(self, duration_s: float) -> None:
        import asyncio

        woken = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._monotonic_s + duration_s, woken))
        await woken

    def advance(self, duration_s: float) -> None:
        """Let `duration_s` pass and wake everyone whose time has come."""
        self._wall_s += duration_s
        self._monotonic_s += duration_s
        due = [sleeper for sleeper in self._sleepers if sleeper[0] <= self._monotonic_s]
        self._sleepers = [sleeper for sleeper in self._sleepers if sleeper[0] > self._monotonic_s]
        for _, woken in due:
            if not woken.done():
                woken.set_result(None)

    def jump_wall(self, delta_s: float) -> None:
        """Set the wall clock forward or back, as an administrator or NTP would."""
        self._wall_s += delta_s


def since_boot_s() -> float:
    """Seconds since the machine's boot, suspended time included: the clock that the kernel stamps processes with."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def sleep_blocking(duration_s: float) -> None:
    """Wait in a process without an event loop (the CLI, a child's start)."""
    time.sleep(duration_s)
