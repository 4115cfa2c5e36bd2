"""Which share of requests n replicas would serve within an objective, from a profile and the load. Pure.

Source: a birth-death chain (Kleinrock, Queueing Systems I, 1975, chapter 3) whose rate of ends follows the profile's
speeds; arrivals count as Poisson within the window that their rate was taken from, lengths as exponential.
"""

import itertools
import math
from collections.abc import Sequence

import msgspec

from outpace.values.snapshot import GuessGain

# Of each: more requests at once than this share of a replica's places leave no room for chance.
_ROOM = 0.75
_LARGE = 1e100


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """What one replica does. Without `speeds` (not measured yet) only its places count."""

    # Sequences that it runs at once.
    places: int
    # Output tokens/s of the replica by requests at once, ascending.
    speeds: tuple[tuple[int, float], ...] = ()
    prefill_tokens_per_s: float | None = None
    # Prompt tokens read per output token while `speeds` were measured.
    read_per_output: float = 0.0
    # What guesses gain beside: not counted on here, since it depends on the texts.
    guess_gains: tuple[GuessGain, ...] = ()
    # One replica of another variant that answers beside all of these.
    helper: "Capacity | None" = None


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
    places = num_replicas * capacity.places
    left_s = goal.ttft_s - _prefill_s(capacity, traffic)
    fastest_per_s = _ends_per_s(num_replicas, capacity, traffic, places)
    if left_s <= 0 or traffic.requests_per_s >= fastest_per_s:
        return 0.0
    steady = _most_steady(capacity, traffic, goal) * num_replicas
    below, at_least = _found_by_arrivals(num_replicas, capacity, traffic, steady)
    too_late = at_least * math.exp(-(fastest_per_s - traffic.requests_per_s) * left_s)
    return min(below, 1.0) if steady < places else 1.0 - too_late


def _found_by_arrivals(
    num_replicas: int, capacity: Capacity, traffic: Traffic, steady: int
) -> tuple[float, float]:
    """Probabilities that an arrival finds fewer than `steady` requests, and that it finds no free place.

    A birth-death chain with arrivals at a rate and ends at the rate of so many requests; Poisson arrivals see its
    stationary state.
    """
    places = num_replicas * capacity.places
    weight, total, few = 1.0, 1.0, 1.0 if steady > 0 else 0.0
    for count in range(1, places + 1):
        weight *= traffic.requests_per_s / _ends_per_s(num_replicas, capacity, traffic, count)
        if count == places:
            break
        total += weight
        few += weight if count < steady else 0.0
        if total > _LARGE:
            weight, total, few = weight / _LARGE, total / _LARGE, few / _LARGE
    busy = traffic.requests_per_s / _ends_per_s(num_replicas, capacity, traffic, places)
    # Beyond all places the rate stays the same: a geometric tail.
    tail = weight / (1.0 - busy)
    return few / (total + tail), tail / (total + tail)


def _most_steady(capacity: Capacity, traffic: Traffic, goal: Goal) -> int:
    """Requests at once on a replica up to which the gap between tokens is short enough."""
    if goal.itl_s is None:
        return capacity.places
    gaps = [
        (users, users / (requests_per_s(capacity, traffic, users) * traffic.output_tokens))
        for users in _loads(capacity)
    ]
    return max((users for users, gap_s in gaps if gap_s <= goal.itl_s), default=0)


def _ends_per_s(num_replicas: int, capacity: Capacity, traffic: Traffic, count: int) -> float:
    """Requests that end per second while `count` run, evenly over the replicas."""
    if count <= num_replicas:
        return count * requests_per_s(capacity, traffic, 1)
    return num_replicas * requests_per_s(capacity, traffic, count / num_replicas)


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
