"""How busy the processors of this machine are: with other programs, and with neighbours of a virtual machine."""

from pathlib import Path

from outpace.values.clock import Clock

_COUNTERS = Path("/proc/stat")
# Of the line `cpu` (proc_stat(5)): user, nice, system, idle, iowait, irq, softirq, steal; guests count as users there.
_NUM_STATES = 8
_IDLE = (3, 4)


async def busy_share(clock: Clock, for_s: float, counters: Path = _COUNTERS) -> float | None:
    """Share of all processors' time in the next `for_s` seconds, 0 to 1; None where the system does not count it."""
    before = _counted(counters)
    await clock.sleep(for_s)
    after = _counted(counters)
    if before is None or after is None:
        return None
    busy, whole = (now - then for now, then in zip(after, before, strict=True))
    return busy / whole if whole > 0 else None


def _counted(counters: Path) -> tuple[int, int] | None:
    """Busy and all ticks since the start of the system."""
    try:
        name, *words = counters.read_text(encoding="ascii").partition("\n")[0].split()
        states = [int(word) for word in words[:_NUM_STATES]]
    except (OSError, ValueError):
        return None
    if name != "cpu" or len(states) < _NUM_STATES:
        return None
    return sum(states) - sum(states[at] for at in _IDLE), sum(states)
