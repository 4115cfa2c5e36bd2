"""Which share of requests n replicas would serve within an objective, from a profile and the load. Pure.

Sources: Erlang's delay formula (M/M/c) for the wait; Little's law for how many run at once; processor sharing with the
profile's speeds for the gap between tokens. Arrivals count as Poisson within the window that the rate was taken from.
"""

import itertools
import math
from collections.abc import Sequence

import msgspec

# Of each: more requests at once than this share of a replica's places leave no room for chance.
_ROOM = 0.75


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """What one replica does. Without `speeds` (not measured yet) only its places count."""

    # Sequences that it runs at once.
    places: int
    # Output tokens/s of the replica by requests at once, ascending.
    speeds: tuple[tuple[int, float], ...] = ()
    prefill_tokens_per_s: float | None = None


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What arrives: a rate, and the mean lengths of a request."""

    requests_per_s: float
    input_tokens: float
    output_tokens: float


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """What a request has to get, and which share of them has to get it."""

    ttft_s: float = 1.0
    itl_s: float | None = None
    share: float = 0.95

    def is_met(self, ttft_s: float, gap_s: float | None) -> bool:
        """An answer with these times got what it had to."""
        return ttft_s <= self.ttft_s and (self.itl_s is None or gap_s is None or gap_s <= self.itl_s)


def speed_at(capacity: Capacity, users: float) -> float:
    """Output tokens/s with so many at once, between and beyond the measured loads."""
    points = capacity.speeds
    if users <= points[0][0]:
        return points[0][1]
    for (below, slow), (above, fast) in itertools.pairwise(points):
        if users <= above:
            return slow + (fast - slow) * (users - below) / (above - below)
    return points[-1][1]


def requests_per_s(capacity: Capacity, traffic: Traffic, users: float) -> float:
    """Requests that one replica ends per second while so many run; prefill takes its share of the same device."""
    decode_s = traffic.output_tokens / speed_at(capacity, users)
    return 1.0 / (decode_s + _prefill_s(capacity, traffic))


def most_requests_per_s(capacity: Capacity, traffic: Traffic) -> float:
    """The most that one replica can keep up with."""
    return max(requests_per_s(capacity, traffic, users) for users in _loads(capacity))


def attainment(num_replicas: int, capacity: Capacity, traffic: Traffic, goal: Goal) -> float:
    """Predicted share of requests within the goal; 0 where the queue would grow for ever."""
    if traffic.requests_per_s <= 0:
        return 1.0
    own = msgspec.structs.replace(traffic, requests_per_s=traffic.requests_per_s / num_replicas)
    if own.requests_per_s >= most_requests_per_s(capacity, traffic):
        return 0.0
    return _in_time(num_replicas, capacity, traffic, goal) * _steady(num_replicas, capacity, own, goal)


def _in_time(num_replicas: int, capacity: Capacity, traffic: Traffic, goal: Goal) -> float:
    """The share whose wait for a place leaves time for its prefill."""
    left_s = goal.ttft_s - _prefill_s(capacity, traffic)
    if left_s <= 0:
        return 0.0
    service_s = capacity.places / requests_per_s(capacity, traffic, capacity.places)
    places, offered = num_replicas * capacity.places, traffic.requests_per_s * service_s
    if offered >= places:
        return 0.0
    return 1.0 - erlang_c(places, offered) * math.exp(-(places - offered) * left_s / service_s)


def _steady(num_replicas: int, capacity: Capacity, own: Traffic, goal: Goal) -> float:
    """The share whose gaps between tokens are short enough, with replicas evenly loaded."""
    if goal.itl_s is None:
        return 1.0
    gaps = [
        (users, users / (requests_per_s(capacity, own, users) * own.output_tokens))
        for users in _loads(capacity)
    ]
    fine = [users for users, gap_s in gaps if gap_s <= goal.itl_s]
    if not fine:
        return 0.0
    return poisson_cdf(num_replicas * max(fine), num_replicas * users_at_once(capacity, own))


def users_at_once(capacity: Capacity, own: Traffic) -> float:
    """Requests that run at once on a replica that keeps up: Little's law, solved over the measured loads."""
    for users in _loads(capacity):
        if requests_per_s(capacity, own, users) >= own.requests_per_s:
            return min(float(users), own.requests_per_s * users / requests_per_s(capacity, own, users))
    return float(capacity.places)


def erlang_c(places: int, offered: float) -> float:
    """Probability that an arrival finds all places taken; `offered` is arrivals times service time, below `places`."""
    blocked = 1.0
    for taken in range(1, places + 1):
        blocked = offered * blocked / (taken + offered * blocked)
    return blocked / (1.0 - offered / places * (1.0 - blocked))


def poisson_cdf(most: int, mean: float) -> float:
    """Probability that a Poisson count is at most `most`."""
    if mean <= 0:
        return 1.0
    logs = [count * math.log(mean) - mean - math.lgamma(count + 1) for count in range(most + 1)]
    return min(1.0, sum(map(math.exp, logs)))


def replicas_for(capacity: Capacity, traffic: Traffic, goal: Goal, most: int) -> int:
    """The fewest replicas that reach the goal's share; `most` where even those do not."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        if attainment(middle, capacity, traffic, goal) >= goal.share:
            high = middle
        else:
            low = middle + 1
    return low


def replicas_for_backlog(
    capacity: Capacity, traffic: Traffic, goal: Goal, num_requests: int, most: int
) -> int:
    """The fewest replicas on which the last of these requests still gets its place in time."""
    left_s = max(goal.ttft_s - _prefill_s(capacity, traffic), 0.0)
    each_per_s = most_requests_per_s(capacity, traffic)
    return min(most, max(1, math.ceil(num_requests / (capacity.places + left_s * each_per_s))))


def replicas_by_places(places: int, num_requests: int, most: int) -> int:
    """The fewest replicas that hold these requests at once with room for more; all that is known without a profile."""
    return min(most, max(1, math.ceil(num_requests / max(1.0, _ROOM * places))))


def _prefill_s(capacity: Capacity, traffic: Traffic) -> float:
    return traffic.input_tokens / capacity.prefill_tokens_per_s if capacity.prefill_tokens_per_s else 0.0


def _loads(capacity: Capacity) -> Sequence[int]:
    return range(1, capacity.places + 1)
