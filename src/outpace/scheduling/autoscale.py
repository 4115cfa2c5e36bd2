"""How many replicas a deployment shall have: up at once, down with care, to zero after an idle time. Pure."""

import msgspec


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What a deployment file allows."""

    least: int = 1
    most: int = 1
    # With `least` 0: without a request for this long, the last replica leaves.
    idle_s: float = 600.0


class Pressure(msgspec.Struct, frozen=True, kw_only=True):
    """What a deployment has to do now, over all gateway workers."""

    waiting: int = 0
    running: int = 0
    # Since the last request ended, or since the last replica came up when there was none since.
    idle_for_s: float = 0.0


class Decision(msgspec.Struct, frozen=True):
    """A count of replicas, and why in words."""

    count: int
    reason: str


def next_count(count: int, bounds: Bounds, pressure: Pressure) -> Decision:
    """The count that follows `count`."""
    if count == 0 and bounds.least == 0:
        return _asleep(pressure)
    if bounds.least == 0 and pressure.idle_for_s >= bounds.idle_s:
        return Decision(0, f"no request for {bounds.idle_s:g} s")
    kept = min(max(count, bounds.least, 1), bounds.most)
    return Decision(kept, f"between {bounds.least} and {bounds.most}")


def _asleep(pressure: Pressure) -> Decision:
    if pressure.waiting == 0:
        return Decision(0, "asleep; the next request wakes it")
    # One start for any number of callers: what comes of it decides about more.
    return Decision(1, f"woken by {pressure.waiting} waiting request{'s' if pressure.waiting > 1 else ''}")
