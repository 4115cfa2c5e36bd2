"""What standing by costs and what it spares: replica-hours a day against waits, from recorded arrivals. Pure."""

from collections.abc import Sequence

import msgspec

_DAY_S = 86_400.0
_HOUR_S = 3_600.0


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that may stand by: the wait for a first token from zero, and its price as a share of a replica's."""

    name: str
    wake_s: float
    # Of a replica's price for every second, also while replicas run: it is filled up again.
    share: float


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One choice replayed over the arrivals."""

    step: str
    # None: the replica never leaves.
    idle_s: float | None
    replica_hours_per_day: float
    starts_per_day: float
    p50_wait_s: float
    p95_wait_s: float
    # No other choice is as cheap and waits as little.
    is_worthwhile: bool = False


def curve(
    arrivals_s: Sequence[float], service_s: float, steps: Sequence[Step], idle_choices_s: Sequence[float]
) -> list[Point]:
    """Every step with every idle time, and a replica that never leaves; cheapest first.

    One replica that serves any number at once for `service_s` each: what is asked is the wait for it to be there, not
    for a place in it. Arrivals ascend and are not empty; hours are scaled from their span to a day.
    """
    points = [_replayed(arrivals_s, service_s, step, idle_s) for step in steps for idle_s in idle_choices_s]
    always = Point(
        step="a replica that stays",
        idle_s=None,
        replica_hours_per_day=_DAY_S / _HOUR_S,
        starts_per_day=0.0,
        p50_wait_s=0.0,
        p95_wait_s=0.0,
    )
    points = sorted([*points, always], key=lambda point: (point.replica_hours_per_day, point.p95_wait_s))
    return [
        msgspec.structs.replace(point, is_worthwhile=_is_worthwhile(point, points[:index]))
        for index, point in enumerate(points)
    ]


def _is_worthwhile(point: Point, cheaper: Sequence[Point]) -> bool:
    return all(other.p95_wait_s > point.p95_wait_s for other in cheaper)


def _replayed(arrivals_s: Sequence[float], service_s: float, step: Step, idle_s: float) -> Point:
    begin_s = arrivals_s[0]
    end_s = max(arrivals_s[-1] + service_s, begin_s + 1.0)
    ready_s = leaves_s = float("-inf")
    awake_s, starts, waits_s = 0.0, 0, []
    for at_s in arrivals_s:
        if at_s >= leaves_s:
            starts += 1
            ready_s = leaves_s = at_s + step.wake_s
            awake_s += step.wake_s
        waits_s.append(max(0.0, ready_s - at_s))
        # It leaves `idle_s` after its last request has ended.
        until_s = max(leaves_s, max(at_s, ready_s) + service_s + idle_s)
        awake_s += min(until_s, end_s) - min(leaves_s, end_s)
        leaves_s = until_s
    waits_s.sort()
    span_s = end_s - begin_s
    hours = (min(awake_s, span_s) + step.share * span_s) / span_s * _DAY_S / _HOUR_S
    return Point(
        step=step.name,
        idle_s=idle_s,
        replica_hours_per_day=hours,
        starts_per_day=starts / span_s * _DAY_S,
        p50_wait_s=_rank(waits_s, 0.5),
        p95_wait_s=_rank(waits_s, 0.95),
    )


def _rank(ascending: Sequence[float], share: float) -> float:
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))]
