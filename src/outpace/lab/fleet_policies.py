"""Policies to compare: fixed fleets, one that reacts to how busy replicas are, and the platform's own."""

import math
from collections.abc import Sequence

from outpace.lab.arrivals import Ask
from outpace.lab.fleet_replay import Outcome, Replay, View
from outpace.scheduling.arrivals import Arrivals, Lengths
from outpace.scheduling.attainment import Capacity, Goal
from outpace.scheduling.autoscale import Bounds, History, Pressure, decide

# As Kubernetes' horizontal autoscaler does by default: each 15 s, down to the highest of the last five minutes.
# https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/ read 2026-11-25
_REACT_EVERY_S = 15.0
_REACT_SETTLE_S = 300.0
_REACT_TARGET = 0.7
# Control's view of the load is as old as the workers' last word.
_OWN_EVERY_S = 0.5
_FIRST_LENGTHS = (200, 100)


class Fixed:
    """The same number at all times."""

    every_s = 60.0

    def __init__(self, count: int) -> None:
        self.name = f"fixed {count}"
        self._count = count

    def arrived(self, ask: Ask, now_s: float) -> None:
        """Makes no difference."""

    def ended(self, ask: Ask) -> None:
        """Makes no difference."""

    def count(self, view: View, now_s: float) -> int:
        """The number."""
        return self._count


class Reactive:
    """Keeps the share of taken places at 70 %, as Kubernetes' autoscaler would with that metric."""

    name = "reactive"
    every_s = _REACT_EVERY_S

    def __init__(self, capacity: Capacity, bounds: Bounds) -> None:
        self._places = capacity.places
        self._least, self._most = max(1, bounds.least), bounds.most
        self._wanted: list[tuple[float, int]] = []

    def arrived(self, ask: Ask, now_s: float) -> None:
        """Makes no difference."""

    def ended(self, ask: Ask) -> None:
        """Makes no difference."""

    def count(self, view: View, now_s: float) -> int:
        """What the load of this moment needs, or the highest of the last minutes."""
        taken = (view.waiting + view.running) / (_REACT_TARGET * self._places)
        now = min(self._most, max(self._least, math.ceil(taken)))
        self._wanted = [(at_s, count) for at_s, count in self._wanted if now_s - at_s < _REACT_SETTLE_S]
        self._wanted.append((now_s, now))
        return max(count for _, count in self._wanted)


class Own:
    """The platform's policy, fed as control feeds it."""

    name = "outpace"
    every_s = _OWN_EVERY_S

    def __init__(self, capacity: Capacity, bounds: Bounds, goal: Goal, start_s: float) -> None:
        self._capacity, self._bounds, self._goal, self._start_s = capacity, bounds, goal, start_s
        self._history = History(count=bounds.least)
        self._arrivals, self._lengths = Arrivals(), Lengths(*_FIRST_LENGTHS)

    def arrived(self, ask: Ask, now_s: float) -> None:
        """Seen by the workers' demand."""
        self._arrivals.add(1, now_s)

    def ended(self, ask: Ask) -> None:
        """Seen in the journals."""
        self._lengths.add(ask.input_tokens, ask.output_tokens)

    def count(self, view: View, now_s: float) -> int:
        """`scheduling.autoscale.decide`."""
        pressure = Pressure(
            waiting=view.waiting,
            running=view.running,
            idle_for_s=view.idle_for_s,
            traffic=self._lengths.traffic(self._arrivals.per_s(now_s)),
        )
        decision = decide(
            self._history,
            self._bounds,
            pressure,
            self._capacity,
            self._goal,
            num_ready=view.num_ready,
            start_s=self._start_s,
            now_s=now_s,
        )
        self._history = decision.history
        return self._history.count


def compare(
    asks: Sequence[Ask], capacity: Capacity, start_s: float, goal: Goal, bounds: Bounds
) -> list[Outcome]:
    """The platform's policy, the reactive one, and the smallest fixed fleets that reach the goal and what ours reached.

    Where no fixed fleet up to the bound reaches it, the largest is shown.
    """

    def run(policy: Fixed | Reactive | Own) -> Outcome:
        return Replay(asks, policy, capacity, start_s, goal).run()

    own = run(Own(capacity, bounds, goal, start_s))
    outcomes, shares = [own, run(Reactive(capacity, bounds))], sorted({goal.share, own.attained})
    fixed = run(Fixed(1))
    for count in range(2, bounds.most + 1):
        while shares and fixed.attained >= shares[0]:
            shares.pop(0)
            if outcomes[-1] is not fixed:
                outcomes.append(fixed)
        if not shares:
            return outcomes
        fixed = run(Fixed(count))
    return outcomes if outcomes[-1] is fixed else [*outcomes, fixed]
