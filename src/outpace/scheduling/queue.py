"""A bounded first-come queue in front of one deployment's replicas; picks the replica with the least work."""

import asyncio
from collections import deque
from collections.abc import Sequence

from outpace.values.errors import ModelLoading, Overloaded
from outpace.values.snapshot import ReplicaEntry

MAX_WAITING = 4_096


class ReplicaQueue:
    """In-flight counts of one deployment in one gateway worker, and who waits for a place."""

    def __init__(self, *, max_waiting: int = MAX_WAITING) -> None:
        self._max_waiting = max_waiting
        self._replicas: dict[str, ReplicaEntry] = {}
        self._in_flight: dict[str, int] = {}
        # replica id → loop time until which it gets nothing, unless every other is worse
        self._avoid_until_s: dict[str, float] = {}
        self._waiting: deque[asyncio.Future[ReplicaEntry]] = deque()
        self._closed_reason: str | None = None

    @property
    def in_flight(self) -> int:
        """Requests at the replicas now."""
        return sum(self._in_flight.values())

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return len(self._waiting)

    def update(self, replicas: Sequence[ReplicaEntry]) -> None:
        """Take over a new set of replicas; running requests keep the one they have."""
        self._replicas = {replica.id: replica for replica in replicas}
        self._in_flight = {
            name: count for name, count in self._in_flight.items() if count or name in self._replicas
        }
        self._avoid_until_s = {n: t for n, t in self._avoid_until_s.items() if n in self._replicas}
        self._admit_waiting()

    async def acquire(self, now_s: float, excluded: frozenset[str] = frozenset()) -> ReplicaEntry:
        """A replica with a place, first come first served; `release` gives the place back.

        Raises Overloaded when the queue is full and ModelLoading when there is no replica.
        Cancelling the wait leaves the queue at once.
        """
        if not self._replicas:
            raise ModelLoading("The model has no ready replica; try again.", retry_after_s=1)
        if not self._waiting:
            replica = self.pick(now_s, excluded)
            if replica is not None:
                return self._take(replica)
        if self.waiting >= self._max_waiting:
            raise Overloaded("Too many requests are waiting for this model; try again.", retry_after_s=2)
        waiter: asyncio.Future[ReplicaEntry] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            self._withdraw(waiter)
            raise

    def pick(self, now_s: float, excluded: frozenset[str] = frozenset()) -> ReplicaEntry | None:
        """The replica with the least in flight that has a place; ones in trouble only as a last resort."""
        if len(self._replicas) == 1:
            (only,) = self._replicas.values()
            return only if self._has_place(only) else None
        free = [replica for replica in self._replicas.values() if self._has_place(replica)]
        if not free:
            return None
        return min(
            free,
            key=lambda replica: (
                replica.id in excluded,
                self._avoid_until_s.get(replica.id, 0.0) > now_s,
                self._in_flight.get(replica.id, 0),
            ),
        )

    def release(self, replica_id: str) -> None:
        """The request at `replica_id` ended."""
        left = self._in_flight.get(replica_id, 0) - 1
        if left > 0 or replica_id in self._replicas:
            self._in_flight[replica_id] = max(left, 0)
        else:
            self._in_flight.pop(replica_id, None)
        if self._waiting:
            self._admit_waiting()

    def avoid(self, replica_id: str, until_s: float) -> None:
        """Send nothing to a replica that just failed, while another can take it."""
        self._avoid_until_s[replica_id] = until_s

    def fail_waiting(self, reason: str) -> None:
        """Tell everybody who waits that the deployment will not serve them."""
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(ModelLoading(reason, retry_after_s=5))
        self._waiting.clear()

    def _has_place(self, replica: ReplicaEntry) -> bool:
        return replica.max_in_flight is None or self._in_flight.get(replica.id, 0) < replica.max_in_flight

    def _take(self, replica: ReplicaEntry) -> ReplicaEntry:
        self._in_flight[replica.id] = self._in_flight.get(replica.id, 0) + 1
        return replica

    def _admit_waiting(self) -> None:
        while self._waiting:
            if self._waiting[0].done():
                self._waiting.popleft()
                continue
            replica = self.pick(now_s=asyncio.get_running_loop().time())
            if replica is None:
                return
            self._waiting.popleft().set_result(self._take(replica))

    def _withdraw(self, waiter: "asyncio.Future[ReplicaEntry]") -> None:
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self.release(waiter.result().id)
        elif waiter in self._waiting:
            self._waiting.remove(waiter)
