"""The one writer of how many replicas each deployment shall have: a person's number, or the policy's."""

import msgspec
import structlog

from outpace.control.demand import Demands
from outpace.control.store import Wanted
from outpace.scheduling.attainment import Capacity, Goal
from outpace.scheduling.autoscale import Bounds, History, Pressure, decide
from outpace.values.clock import Clock
from outpace.values.deployment import Objective, Replicas
from outpace.values.records import Reserved, Settled
from outpace.values.signals import Demand

_LOG = structlog.get_logger()
# After a start that failed: long enough that every gateway worker tells its callers why.
_SHORTEST_HOLD_S = 1.0


class Scaled(msgspec.Struct, kw_only=True):
    """One deployment's count."""

    bounds: Bounds
    goal: Goal
    history: History
    pinned: int | None = None
    reason: str = ""
    changed_at: float
    # Monotonic second until which it is not woken, because its last start failed.
    held_until_s: float = float("-inf")

    @property
    def may_sleep(self) -> bool:
        """It may go to zero, and a request brings it back."""
        return self.bounds.least == 0 and self.pinned is None

    @property
    def desired(self) -> int:
        """Replicas to keep now; a person's number comes first."""
        return self.history.count if self.pinned is None else self.pinned


class Scaler:
    """Counts by deployment; lives on control's loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._scaled: dict[str, Scaled] = {}
        self._demands = Demands()

    def __getitem__(self, name: str) -> Scaled:
        return self._scaled[name]

    def want(self, wanted: Wanted, at_least: int) -> None:
        """Take over a wish; `at_least` so many replicas come up even where it may sleep."""
        name, replicas = wanted.spec.name, wanted.spec.replicas
        before = self._scaled.get(name)
        history = before.history if before else History(count=0)
        count = min(max(replicas.min, at_least, history.count), replicas.max)
        self._scaled[name] = Scaled(
            bounds=bounds_of(replicas),
            goal=goal_of(wanted.spec.objective),
            history=msgspec.structs.replace(history, count=count),
            pinned=wanted.pinned,
            reason=_first_words(wanted, count),
            changed_at=self._clock.wall_s(),
        )
        self._demands.expect(name, wanted.spec.traffic)
        self._demands.touch(name, self._clock.monotonic_s())

    def forget(self, name: str) -> None:
        """A deployment is not wanted any more."""
        self._scaled.pop(name, None)
        self._demands.forget(name)

    def take(self, demand: Demand) -> bool:
        """Take in a worker's demand; True when somebody waits for a deployment that sleeps."""
        self._demands.take(demand, self._clock.monotonic_s())
        asleep = {name for name, scaled in self._scaled.items() if scaled.desired == 0}
        return any(told.waiting and name in asleep for name, told in demand.deployments.items())

    def touch(self, name: str, now_s: float) -> None:
        """A sign that a deployment is in use, from elsewhere than a worker's demand."""
        self._demands.touch(name, now_s)

    def pressure(self, name: str, now_s: float) -> Pressure:
        """What a deployment has to do now."""
        return self._demands.pressure(name, now_s)

    def learn(self, reserved: Reserved, settled: Settled) -> None:
        """A request ended; may be called from another thread."""
        self._demands.learn(reserved, settled)

    def attained(self, name: str) -> tuple[float, int] | None:
        """The share of the last answers within the objective, and their number; None when there are none."""
        return self._demands.attained(name, self._scaled[name].goal)

    def step(self, name: str, capacity: Capacity, num_ready: int, start_s: float) -> int:
        """Decide again; the count to have."""
        scaled = self._scaled[name]
        now_s = self._clock.monotonic_s()
        if scaled.pinned is None and now_s >= scaled.held_until_s:
            decision = decide(
                scaled.history,
                scaled.bounds,
                self._demands.pressure(name, now_s),
                capacity,
                scaled.goal,
                num_ready=num_ready,
                start_s=start_s,
                now_s=now_s,
            )
            self._set(name, decision.history, decision.reason)
        return scaled.desired

    def sleep(self, name: str, reason: str) -> None:
        """Have no replicas until the next request. Only where `replicas.min` is 0."""
        # What workers told before may have ended since; what still holds is told again.
        self._demands.unhear(name)
        self._set(name, msgspec.structs.replace(self._scaled[name].history, count=0, needs=()), reason)

    def spare(self, name: str) -> int:
        """Replicas that may leave for others: above the file's least, where no person has set the number."""
        scaled = self._scaled[name]
        return 0 if scaled.pinned is not None else max(0, scaled.history.count - scaled.bounds.least)

    def give_room(self, name: str) -> None:
        """One replica leaves because another deployment needs its memory."""
        count = self._scaled[name].history.count - 1
        history = msgspec.structs.replace(self._scaled[name].history, count=count, needs=())
        self._set(name, history, "made room: it was unused for longest when memory was needed")

    def start_failed(self, name: str, retry_s: float | None) -> None:
        """A start failed: where nothing must run, nothing is tried before `retry_s`, and then only for a caller."""
        scaled = self._scaled[name]
        if not scaled.may_sleep:
            return
        self.sleep(name, "its last start failed")
        soonest_s = self._clock.monotonic_s() + _SHORTEST_HOLD_S
        scaled.held_until_s = soonest_s if retry_s is None else max(soonest_s, retry_s)

    def is_held(self, name: str) -> bool:
        """The last start failed and its back-off runs."""
        return self._clock.monotonic_s() < self._scaled[name].held_until_s

    def _set(self, name: str, history: History, reason: str) -> None:
        scaled, before = self._scaled[name], self._scaled[name].history.count
        scaled.history, scaled.reason = history, reason or scaled.reason
        if history.count != before:
            scaled.changed_at = self._clock.wall_s()
            _LOG.info("scaled", deployment=name, count=history.count, before=before, reason=reason)


def bounds_of(replicas: Replicas) -> Bounds:
    """What a file allows the policy."""
    return Bounds(
        least=replicas.min,
        most=replicas.max,
        idle_s=replicas.idle_s,
        starts_per_hour=replicas.starts_per_hour,
    )


def goal_of(objective: Objective) -> Goal:
    """What a file demands of each answer; a second to the first token where it demands nothing."""
    return Goal(
        ttft_s=Goal().ttft_s if objective.ttft_ms is None else objective.ttft_ms / 1000,
        itl_s=None if objective.itl_ms is None else objective.itl_ms / 1000,
        share=objective.percentile / 100,
    )


def _first_words(wanted: Wanted, count: int) -> str:
    if wanted.pinned is not None:
        return f"set to {wanted.pinned} by `outpace scale`; `outpace scale {wanted.spec.name} auto` lets go"
    if count == 0:
        return "asleep; the next request wakes it"
    return "as deployed"
