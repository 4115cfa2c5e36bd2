"""Replays arrivals over a simulated fleet: replicas that take a time to start and run at a profile's speeds.

A replica runs up to its places at once and shares its speed between them; a prompt's prefill holds the others up for as
long as it takes. What waits is served first come, first served, by the replica with the least to do. Each replica has a
device of its own. Counts come from a policy; the platform's own is the very code that control runs.
"""

import math
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import msgspec

from outpace.lab.arrivals import Ask
from outpace.scheduling.attainment import Capacity, Goal, speed_at

_NEVER_S = math.inf


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy sees."""

    waiting: int
    running: int
    num_ready: int
    # Since something ran or waited.
    idle_for_s: float


class Policy(Protocol):
    """Says how many replicas there shall be."""

    name: str
    # Counts are asked for this often, and at once when a request finds no replica at all.
    every_s: float

    def arrived(self, ask: Ask, now_s: float) -> None: ...

    def ended(self, ask: Ask) -> None: ...

    def count(self, view: View, now_s: float) -> int: ...


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one replay gave."""

    policy: str
    requests: int
    # Share of requests within the objective.
    attained: float
    ttft_p50_s: float
    ttft_p95_s: float
    ttft_max_s: float
    # From the order to start until the process is gone.
    replica_s: float
    starts: int
    # Starts with nothing running, and requests that came meanwhile.
    cold_starts: int
    cold_waits: int
    most_replicas: int
    duration_s: float

    def cost_pusd(self, pusd_per_hour: int) -> int:
        """What the replicas cost, in pico-dollars, by the millisecond."""
        return round(1000 * self.replica_s) * pusd_per_hour // 3_600_000


class _Job:
    __slots__ = ("ask", "first_s", "left")

    def __init__(self, ask: Ask, first_s: float) -> None:
        self.ask = ask
        self.first_s = first_s
        self.left = float(ask.output_tokens)


class _Replica:
    """One simulated replica."""

    def __init__(self, capacity: Capacity, ordered_s: float, ready_s: float) -> None:
        self._capacity = capacity
        self.ordered_s, self.ready_s = ordered_s, ready_s
        self.is_draining = False
        self.jobs: list[_Job] = []
        self._at_s = ready_s
        self._held_s = 0.0

    def takes(self, now_s: float) -> bool:
        return now_s >= self.ready_s and not self.is_draining and len(self.jobs) < self._capacity.places

    def take(self, ask: Ask, now_s: float) -> None:
        self.advance(now_s)
        prefill = self._capacity.prefill_tokens_per_s
        self._held_s += ask.input_tokens / prefill if prefill else 0.0
        self.jobs.append(_Job(ask, now_s + self._held_s))

    def advance(self, now_s: float) -> None:
        passed_s = max(0.0, now_s - self._at_s)
        held_s = min(passed_s, self._held_s)
        self._held_s -= held_s
        self._at_s = max(self._at_s, now_s)
        if self.jobs and passed_s > held_s:
            done = (passed_s - held_s) * self._each_per_s()
            for job in self.jobs:
                job.left -= done

    def next_end_s(self) -> float:
        if not self.jobs:
            return _NEVER_S
        return self._at_s + self._held_s + max(0.0, min(job.left for job in self.jobs)) / self._each_per_s()

    def pop_ended(self, now_s: float) -> list[_Job]:
        self.advance(now_s)
        ended = [job for job in self.jobs if job.left <= 1e-6]
        if ended:
            self.jobs = [job for job in self.jobs if job.left > 1e-6]
        return ended

    def _each_per_s(self) -> float:
        return speed_at(self._capacity, len(self.jobs)) / len(self.jobs)


class Replay:
    """One run of a trace under a policy."""

    def __init__(
        self, asks: Sequence[Ask], policy: Policy, capacity: Capacity, start_s: float, goal: Goal
    ) -> None:
        self._asks, self._policy, self._capacity = asks, policy, capacity
        self._start_s, self._goal = start_s, goal
        self._replicas: list[_Replica] = []
        self._queue: deque[Ask] = deque()
        self._answers: list[tuple[float, float | None]] = []
        self._replica_s, self._starts, self._most = 0.0, 0, 0
        self._cold_starts, self._cold_waits = 0, 0
        self._busy_s = 0.0

    def run(self) -> Outcome:
        """The whole trace, until its last answer has ended."""
        index, now_s, tick_s = 0, 0.0, 0.0
        self._scale(0.0)
        while index < len(self._asks) or self._queue or any(replica.jobs for replica in self._replicas):
            at_s = self._asks[index].at_s if index < len(self._asks) else _NEVER_S
            ends_s = min((replica.next_end_s() for replica in self._replicas), default=_NEVER_S)
            ready_s = min((r.ready_s for r in self._replicas if r.ready_s > now_s), default=_NEVER_S)
            now_s = min(at_s, ends_s, ready_s, tick_s)
            self._take_ended(now_s)
            if now_s == at_s:
                self._arrive(self._asks[index], now_s)
                index += 1
            if now_s >= tick_s:
                self._scale(now_s)
                tick_s = now_s + self._policy.every_s
            self._dispatch(now_s)
        return self._outcome(now_s)

    def _arrive(self, ask: Ask, now_s: float) -> None:
        self._policy.arrived(ask, now_s)
        self._queue.append(ask)
        if not any(now_s >= replica.ready_s for replica in self._replicas):
            self._cold_waits += 1
        if not self._replicas:
            self._scale(now_s)

    def _take_ended(self, now_s: float) -> None:
        for replica in self._replicas:
            for job in replica.pop_ended(now_s):
                self._policy.ended(job.ask)
                after = job.ask.output_tokens - 1
                gap_s = (now_s - job.first_s) / after if after else None
                self._answers.append((job.first_s - job.ask.at_s, gap_s))
        gone = [replica for replica in self._replicas if replica.is_draining and not replica.jobs]
        for replica in gone:
            self._replicas.remove(replica)
            self._replica_s += now_s - replica.ordered_s

    def _dispatch(self, now_s: float) -> None:
        while self._queue:
            free = [replica for replica in self._replicas if replica.takes(now_s)]
            if not free:
                return
            min(free, key=lambda replica: len(replica.jobs)).take(self._queue.popleft(), now_s)

    def _scale(self, now_s: float) -> None:
        running = sum(len(replica.jobs) for replica in self._replicas)
        if running or self._queue:
            self._busy_s = now_s
        staying = [replica for replica in self._replicas if not replica.is_draining]
        view = View(
            waiting=len(self._queue),
            running=running,
            num_ready=sum(now_s >= replica.ready_s for replica in staying),
            idle_for_s=now_s - self._busy_s,
        )
        self._move_to(self._policy.count(view, now_s), staying, now_s)

    def _move_to(self, count: int, staying: list[_Replica], now_s: float) -> None:
        draining = [replica for replica in self._replicas if replica.is_draining]
        for replica in draining[: max(0, count - len(staying))]:
            replica.is_draining = False
            staying.append(replica)
        if not self._replicas and count and now_s > 0:
            self._cold_starts += 1
        for _ in range(count - len(staying)):
            # At the beginning of a trace what is wanted runs already.
            ready_s = now_s + (self._start_s if now_s > 0 else 0.0)
            self._replicas.append(_Replica(self._capacity, now_s, ready_s))
            self._starts += now_s > 0
        # Those that do not answer yet go first, then those with the least to do.
        staying.sort(key=lambda replica: (now_s >= replica.ready_s, len(replica.jobs)))
        for replica in staying[: max(0, len(staying) - count)]:
            replica.is_draining = True
        self._most = max(self._most, len(self._replicas))

    def _outcome(self, now_s: float) -> Outcome:
        # A fleet is paid for as long as the trace lasts, also where its last request ends earlier.
        end_s = max(now_s, self._asks[-1].at_s)
        self._replica_s += sum(end_s - replica.ordered_s for replica in self._replicas)
        ttfts = sorted(ttft_s for ttft_s, _ in self._answers)
        return Outcome(
            policy=self._policy.name,
            requests=len(self._answers),
            attained=sum(self._goal.is_met(*answer) for answer in self._answers) / len(self._answers),
            ttft_p50_s=_quantile(ttfts, 0.5),
            ttft_p95_s=_quantile(ttfts, 0.95),
            ttft_max_s=ttfts[-1],
            replica_s=self._replica_s,
            starts=self._starts,
            cold_starts=self._cold_starts,
            cold_waits=self._cold_waits,
            most_replicas=self._most,
            duration_s=end_s,
        )


def _quantile(ascending: Sequence[float], share: float) -> float:
    return ascending[min(len(ascending) - 1, math.ceil(share * len(ascending)) - 1)]
