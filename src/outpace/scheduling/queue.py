"""The bounded queue in front of one deployment's replicas, in one gateway worker.

Who waits, and for what: a place at a replica that is there, or a replica that is starting or asleep. Leaving (the
client went, the deadline passed) is immediate. What goes next is decided by the policies of this room; here they
are joined, and callers woken.
"""

import asyncio
from collections.abc import Callable

from outpace.scheduling.lines import WaitingLine, line
from outpace.scheduling.reserve import EXPECTED_FOR_S, may_take
from outpace.scheduling.routing import ReplicaLoad, pick
from outpace.scheduling.tickets import Ticket
from outpace.values.errors import ModelLoading, OutpaceError, Overloaded
from outpace.values.signals import DeploymentDemand
from outpace.values.snapshot import DeploymentEntry, ReplicaEntry

MAX_WAITING = 4_096
# Before control knows better how long a start takes.
_START_GUESS_S = 2.0
_MOST_KEYS_SEEN = 256


class ReplicaQueue:
    """In-flight counts of one deployment in one gateway worker, and who waits for a place."""

    def __init__(
        self, now_s: Callable[[], float], *, order: str = "fair", max_waiting: int = MAX_WAITING
    ) -> None:
        self._now_s = now_s
        self._max_waiting = max_waiting
        self._line: WaitingLine = line(order)
        self._waiters: dict[Ticket, asyncio.Future[ReplicaLoad]] = {}
        self._replicas: dict[str, ReplicaLoad] = {}
        # Replicas that serve new requests; the others only end what they have.
        self._current: list[ReplicaLoad] = []
        self._running: dict[str, int] = {}
        self._key_seen_s: dict[str, float] = {}
        self._interactive_seen_s = -EXPECTED_FOR_S
        self._ready_since_s: float | None = None
        self._ready_at_s: float | None = None
        self._arrived = 0
        self._arrived_tokens = 0
        self._waiting_tokens = 0

    # -- what is seen from outside

    @property
    def in_flight(self) -> int:
        """Requests at the replicas now."""
        return sum(replica.in_flight for replica in self._replicas.values())

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return len(self._waiters)

    @property
    def is_ready(self) -> bool:
        """There is a replica to send to."""
        return bool(self._current)

    def demand(self) -> DeploymentDemand:
        """What there is to do now, and was since the worker started."""
        now_s = self._now_s()
        oldest_s = min((ticket.arrived_s for ticket in self._waiters), default=now_s)
        return DeploymentDemand(
            waiting=self.waiting,
            running=self.in_flight,
            waiting_tokens=self._waiting_tokens,
            running_tokens=sum(replica.tokens for replica in self._replicas.values()),
            arrived=self._arrived,
            arrived_tokens=self._arrived_tokens,
            oldest_wait_s=max(0.0, now_s - oldest_s),
        )

    # -- what changes

    def update(self, deployment: DeploymentEntry) -> None:
        """Take over a new snapshot's replicas; running requests keep the one they have."""
        now_s = self._now_s()
        self._current = [self._load_of(entry) for entry in deployment.replicas]
        kept = {replica.entry.id: replica for replica in self._current}
        leaving = {name: each for name, each in self._replicas.items() if each.in_flight and name not in kept}
        self._replicas = {**leaving, **kept}
        if not self._current:
            self._ready_since_s = None
        elif self._ready_since_s is None:
            self._ready_since_s = now_s
        self._ready_at_s = None if deployment.ready_in_s is None else now_s + deployment.ready_in_s
        if deployment.state in ("failed", "stopped"):
            self.fail_waiting(_why_none(deployment))
        self._admit_waiting()

    def _load_of(self, entry: ReplicaEntry) -> ReplicaLoad:
        known = self._replicas.get(entry.id)
        if known is None:
            return ReplicaLoad(entry, entry.max_in_flight)
        known.entry, known.limit = entry, entry.max_in_flight
        return known

    # -- places

    def arrive(self, ticket: Ticket) -> None:
        """A request has come; `take` or `wait` follow, once for every attempt."""
        self._arrived += 1
        self._arrived_tokens += ticket.tokens
        if ticket.priority == "interactive":
            self._interactive_seen_s = ticket.arrived_s
        seen = self._key_seen_s
        seen.pop(ticket.key, None)
        seen[ticket.key] = ticket.arrived_s
        if len(seen) > _MOST_KEYS_SEEN:
            del seen[next(iter(seen))]

    def take(self, ticket: Ticket) -> ReplicaEntry | None:
        """A place at once, if there is one that nobody waits for; `release` gives it back."""
        if self._waiters:
            return None
        replica = self._place_for(ticket)
        if replica is None:
            return None
        self._line.passed(ticket)
        return self._give(replica, ticket)

    async def wait(self, ticket: Ticket) -> ReplicaEntry:
        """A place when it is this ticket's turn; `release` gives it back.

        Raises Overloaded when the queue is full, and what `expire` or `fail_waiting` say. Cancelling the wait leaves
        the queue at once.
        """
        if self.waiting >= self._max_waiting:
            raise Overloaded("Too many requests are waiting for this model; try again.", retry_after_s=2)
        waiter: asyncio.Future[ReplicaLoad] = asyncio.get_running_loop().create_future()
        self._waiters[ticket] = waiter
        self._waiting_tokens += ticket.tokens
        self._line.add(ticket)
        self._admit_waiting()
        try:
            return (await waiter).entry
        except asyncio.CancelledError:
            if not self._leave(ticket) and waiter.done() and not waiter.cancelled():
                self._take_back(waiter, ticket)
            raise

    def release(self, replica_id: str, ticket: Ticket, used_tokens: int | None = None) -> None:
        """The request at `replica_id` ended; `used_tokens` is what it really took, where that is known."""
        replica = self._replicas.get(replica_id)
        if replica is not None:
            replica.in_flight -= 1
            replica.tokens -= ticket.tokens
            if not replica.in_flight and replica not in self._current:
                del self._replicas[replica_id]
        running = self._running.pop(ticket.key, 1) - 1
        if running > 0:
            self._running[ticket.key] = running
        if used_tokens is not None:
            self._line.correct(ticket, used_tokens - ticket.tokens)
        if self._waiters:
            self._admit_waiting()

    def avoid(self, replica_id: str, until_s: float) -> None:
        """Send nothing to a replica that just failed, while another can take it."""
        if replica_id in self._replicas:
            self._replicas[replica_id].avoid_until_s = until_s

    # -- who leaves without a place

    def expire(self, ticket: Ticket) -> None:
        """The deadline of a ticket has passed: if it still waits, it hears so."""
        self._refuse(ticket, self._too_late(ticket))

    def fail_waiting(self, reason: str) -> None:
        """Tell everybody who waits that the deployment will not serve them."""
        for ticket in list(self._waiters):
            self._refuse(ticket, ModelLoading(reason, retry_after_s=5))

    def _too_late(self, ticket: Ticket) -> OutpaceError:
        now_s = self._now_s()
        waited_s = now_s - ticket.arrived_s
        if self._current:
            return Overloaded(
                f"No place became free before the request's deadline, in {waited_s:.3g} s; try again later, or "
                "allow more time.",
                retry_after_s=max(1.0, waited_s),
            )
        if self._ready_at_s is None:
            eta_s, expected = _START_GUESS_S, "how long it takes is not known yet"
        else:
            eta_s = max(1.0, self._ready_at_s - now_s)
            expected = f"it is expected to answer in {eta_s:.3g} s"
        return ModelLoading(
            f"The model is starting and did not answer before the request's deadline, in {waited_s:.3g} s; {expected}.",
            retry_after_s=eta_s,
        )

    def _refuse(self, ticket: Ticket, error: OutpaceError) -> None:
        waiter = self._waiters.get(ticket)
        if waiter is None:
            return
        self._leave(ticket)
        if not waiter.done():
            waiter.set_exception(error)

    def _leave(self, ticket: Ticket) -> bool:
        if self._waiters.pop(ticket, None) is None:
            return False
        self._line.remove(ticket)
        self._waiting_tokens -= ticket.tokens
        return True

    def _take_back(self, waiter: "asyncio.Future[ReplicaLoad]", ticket: Ticket) -> None:
        if waiter.exception() is None:
            self.release(waiter.result().entry.id, ticket)

    # -- who goes next

    def _admit_waiting(self) -> None:
        while self._waiters and self._current:
            found: list[ReplicaLoad] = []

            def may(ticket: Ticket, found: list[ReplicaLoad] = found) -> bool:
                replica = self._place_for(ticket)
                if replica is not None:
                    found.append(replica)
                return replica is not None

            ticket = self._line.next(may)
            if ticket is None:
                return
            waiter = self._waiters.pop(ticket)
            self._waiting_tokens -= ticket.tokens
            self._give(found[0], ticket)
            waiter.set_result(found[0])

    def _place_for(self, ticket: Ticket) -> ReplicaLoad | None:
        if not self._may_take(ticket):
            return None
        return pick(self._current, ticket, self._now_s())

    def _may_take(self, ticket: Ticket) -> bool:
        is_batch, runs_already = ticket.priority == "batch", ticket.key in self._running
        if not is_batch and not runs_already:
            return True
        places, free = 0, 0
        for replica in self._current:
            if replica.limit is None:
                return True
            places += replica.limit
            free += max(0, replica.limit - replica.in_flight)
        return may_take(
            places,
            free,
            yields_to_interactive=is_batch and self._now_s() - self._interactive_seen_s < EXPECTED_FOR_S,
            yields_to_others=runs_already and self._has_others(ticket.key),
        )

    def _has_others(self, key: str) -> bool:
        recent_s = self._now_s() - EXPECTED_FOR_S
        return any(name != key and seen_s > recent_s for name, seen_s in self._key_seen_s.items())

    def _give(self, replica: ReplicaLoad, ticket: Ticket) -> ReplicaEntry:
        replica.in_flight += 1
        replica.tokens += ticket.tokens
        self._running[ticket.key] = self._running.get(ticket.key, 0) + 1
        if self._ready_since_s is not None and self._ready_since_s > ticket.arrived_s:
            ticket.held_s = self._ready_since_s - ticket.arrived_s
        return replica.entry


def _why_none(deployment: DeploymentEntry) -> str:
    if deployment.state == "stopped":
        return "The model was stopped; `outpace deploy` starts it."
    return f"The model could not be started: {deployment.reason or 'see `outpace status`'}"
