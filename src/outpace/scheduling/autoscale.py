"""How many replicas a deployment shall have: up at once, down with care, to zero after an idle time. Pure.

What is needed comes from the predicted share of requests within the objective (`attainment`), never from how busy a
processor is. Starts are counted: under load that flaps, capacity stays rather than that an hour sees more starts than
allowed.
"""

import msgspec

from outpace.scheduling.attainment import (
    Capacity,
    Goal,
    Traffic,
    attainment,
    replicas_by_places,
    replicas_for,
    replicas_for_backlog,
)

HOUR_S = 3600.0
# Replicas leave only when a load that is higher by this factor would need fewer, too.
HYSTERESIS = 1.2
# How long a need is remembered: a spare replica costs as much as so many starts wait.
_SETTLE_STARTS = 20.0
_SETTLE_S = (15.0, 300.0)
_LEAVES_AT_ONCE = 0.25


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What a deployment file allows."""

    least: int = 1
    most: int = 1
    # With `least` 0: without a request for this long, the last replica leaves.
    idle_s: float = 600.0
    starts_per_hour: int = 120


class Pressure(msgspec.Struct, frozen=True, kw_only=True):
    """What a deployment has to do now, over all gateway workers."""

    waiting: int = 0
    running: int = 0
    # Since it last had something to do, or came up.
    idle_for_s: float = 0.0
    # Lately, and the mean lengths of requests that ended.
    traffic: Traffic = Traffic(requests_per_s=0.0, input_tokens=0.0, output_tokens=1.0)


class History(msgspec.Struct, frozen=True, kw_only=True):
    """What the policy remembers of a deployment; times on the monotonic clock."""

    count: int
    # One for each replica that it started within the last hour.
    starts_s: tuple[float, ...] = ()
    # Replicas that may leave now, of those that the starts of an hour can bring back; None: not counted yet.
    leaves: float | None = None
    leaves_at_s: float = 0.0
    # What was needed lately, with the time; only what nothing later exceeds.
    needs: tuple[tuple[float, int], ...] = ()


class Decision(msgspec.Struct, frozen=True):
    """What the policy remembers from now on, and why its count changed or was held; empty when there is no news."""

    history: History
    reason: str


def settle_s(start_s: float) -> float:
    """How long a need is remembered before replicas leave, for a replica that takes `start_s` to start."""
    shortest_s, longest_s = _SETTLE_S
    return min(longest_s, max(shortest_s, _SETTLE_STARTS * start_s))


def decide(
    history: History,
    bounds: Bounds,
    pressure: Pressure,
    capacity: Capacity,
    goal: Goal,
    *,
    num_ready: int,
    start_s: float,
    now_s: float,
) -> Decision:
    """The next count. `num_ready` replicas answer now; one takes `start_s` to start."""
    starts_s = tuple(at_s for at_s in history.starts_s if now_s - at_s < HOUR_S)
    history = _with_leaves(msgspec.structs.replace(history, starts_s=starts_s), bounds, now_s)
    if history.count == 0 and bounds.least == 0:
        return _asleep(history, pressure, now_s)
    if bounds.least == 0 and pressure.idle_for_s >= bounds.idle_s:
        return _to_sleep(history, bounds)
    lowest = max(1, bounds.least)
    if num_ready == 0 and history.count >= lowest:
        # What comes of the first start decides about more.
        return Decision(history, "")
    need = max(lowest, needed(bounds, pressure, capacity, goal))
    spare = max(need, needed(bounds, _higher(pressure), capacity, goal))
    history = _remember(history, spare, settle_s(start_s), now_s)
    wanted = min(max(history.count, need), max(need, history.needs[0][1]), bounds.most)
    reason = "" if wanted == history.count else why(need, pressure, capacity, goal)
    return _within_budget(history, bounds, wanted, reason, now_s)


def needed(bounds: Bounds, pressure: Pressure, capacity: Capacity, goal: Goal) -> int:
    """The fewest replicas for the load of now and lately: one where their helper alone holds the goal."""
    if capacity.helper is not None and capacity.helper.speeds and _is_enough(capacity.helper, pressure, goal):
        return 1
    num_requests = pressure.waiting + pressure.running
    if not capacity.speeds:
        return replicas_by_places(capacity.places, num_requests, bounds.most)
    steady = replicas_for(capacity, pressure.traffic, goal, bounds.most)
    if pressure.waiting == 0:
        return steady
    return max(steady, replicas_for_backlog(capacity, pressure.traffic, goal, num_requests, bounds.most))


def _is_enough(helper: Capacity, pressure: Pressure, goal: Goal) -> bool:
    at_once = pressure.waiting + pressure.running
    backlog = replicas_for_backlog(helper, pressure.traffic, goal, at_once, 2) if pressure.waiting else 1
    return backlog == 1 and attainment(1, helper, pressure.traffic, goal) >= goal.share


def why(need: int, pressure: Pressure, capacity: Capacity, goal: Goal) -> str:
    """The load and what is predicted for it, in words."""
    traffic = pressure.traffic
    if not capacity.speeds:
        at_once = pressure.waiting + pressure.running
        return f"{at_once} requests at once for {capacity.places} places a replica; not profiled yet"
    lengths = f"{traffic.input_tokens:.0f} + {traffic.output_tokens:.0f} tokens"
    words = f"{traffic.requests_per_s:.2g} requests/s of {lengths}"
    if pressure.waiting:
        words += f", {pressure.waiting} waiting"
    share = attainment(need, capacity, traffic, goal)
    words += f": {100 * share:.0f} % predicted within the objective on {need}"
    if need > 1:
        words += f", {100 * attainment(need - 1, capacity, traffic, goal):.0f} % on {need - 1}"
    return words


def _asleep(history: History, pressure: Pressure, now_s: float) -> Decision:
    if pressure.waiting == 0:
        return Decision(history, "")
    # One start for any number of callers: what comes of it decides about more.
    woken = msgspec.structs.replace(
        history, count=1, starts_s=(*history.starts_s, now_s), needs=((now_s, 1),)
    )
    return Decision(
        woken, f"woken by {pressure.waiting} waiting request{'s' if pressure.waiting > 1 else ''}"
    )


def _to_sleep(history: History, bounds: Bounds) -> Decision:
    decision = _down(history, bounds, 0, f"no request for {bounds.idle_s:g} s")
    is_wakeable = len(history.starts_s) < bounds.starts_per_hour
    if decision.history.count > 0 or is_wakeable:
        return decision
    kept = msgspec.structs.replace(decision.history, count=1)
    return Decision(kept, f"stays up: {len(history.starts_s)} starts within the last hour")


def _with_leaves(history: History, bounds: Bounds, now_s: float) -> History:
    """A bucket: a quarter of an hour's starts at once, three quarters over the hour."""
    most = max(1.0, _LEAVES_AT_ONCE * bounds.starts_per_hour)
    if history.leaves is None:
        return msgspec.structs.replace(history, leaves=most, leaves_at_s=now_s)
    more = (1 - _LEAVES_AT_ONCE) * bounds.starts_per_hour * (now_s - history.leaves_at_s) / HOUR_S
    return msgspec.structs.replace(history, leaves=min(most, history.leaves + more), leaves_at_s=now_s)


def _remember(history: History, need: int, window_s: float, now_s: float) -> History:
    # What runs at the beginning was needed for something.
    known = history.needs or ((now_s, history.count),)
    recent = [(at_s, count) for at_s, count in known if now_s - at_s < window_s and count > need]
    return msgspec.structs.replace(history, needs=(*recent, (now_s, need)))


def _within_budget(history: History, bounds: Bounds, wanted: int, reason: str, now_s: float) -> Decision:
    """No more starts in an hour than allowed: replicas leave only as fast as starts could bring them back."""
    if wanted < history.count:
        return _down(history, bounds, wanted, reason)
    # One start is kept for waking up; what the file demands is no reaction to load.
    left = bounds.starts_per_hour - (1 if bounds.least == 0 else 0) - len(history.starts_s)
    allowed = min(wanted, max(history.count + max(0, left), bounds.least))
    if allowed < wanted:
        reason += f"; held at {allowed} by {len(history.starts_s)} starts within the last hour"
    started = (now_s,) * (allowed - history.count)
    grown = msgspec.structs.replace(history, count=allowed, starts_s=(*history.starts_s, *started))
    return Decision(grown, reason)


def _down(history: History, bounds: Bounds, wanted: int, reason: str) -> Decision:
    leaves = history.leaves or 0.0
    # More than the file allows is no matter of load.
    allowed = min(max(wanted, history.count - int(leaves)), bounds.most)
    if allowed > wanted:
        reason += f"; held at {allowed} by {len(history.starts_s)} starts within the last hour"
    left = max(0.0, leaves - (history.count - allowed))
    needs = history.needs if allowed else ()
    return Decision(msgspec.structs.replace(history, count=allowed, leaves=left, needs=needs), reason)


def _higher(pressure: Pressure) -> Pressure:
    traffic = pressure.traffic
    higher = msgspec.structs.replace(traffic, requests_per_s=HYSTERESIS * traffic.requests_per_s)
    return msgspec.structs.replace(pressure, traffic=higher)
