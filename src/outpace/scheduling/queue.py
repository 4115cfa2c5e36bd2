"""The bounded queue in front of one deployment's replicas, in one gateway worker.

Who waits, and for what: a place at a replica that is there, or a replica that is starting or asleep. Leaving (the
client went, the deadline passed) is immediate. What goes next, and where, is decided by the policies of this room; here
they are joined, and callers woken.
"""

import asyncio
from collections.abc import Callable, Sequence

from outpace.scheduling.gangs import GANG_WAIT_S, gang_size
from outpace.scheduling.lines import WaitingLine, line
from outpace.scheduling.pace import Pace, Rates, Work, duration_s, wait_s
from outpace.scheduling.replicas import Replicas
from outpace.scheduling.retries import RetryBudget
from outpace.scheduling.routing import ReplicaLoad
from outpace.scheduling.tickets import Ticket
from outpace.values.errors import ModelLoading, OutpaceError, Overloaded
from outpace.values.signals import DeploymentDemand
from outpace.values.snapshot import DeploymentEntry, ReplicaEntry
from outpace.values.usage import Usage

MAX_WAITING = 4_096
# Before control knows better how long a start takes.
_START_GUESS_S = 2.0
# Longer rests of all replicas are not waited for.
_PATIENCE_WITH_REST_S = 2.0
# An expectation is off by so much; a request is refused early only when it would be late all the same.
_SURELY_LATE = 1.5
# SDKs do not come back after longer waits (openai-python gives up beyond 120 s, older ones beyond 60 s).
_LONGEST_RETRY_AFTER_S = 60.0


class ReplicaQueue:
    """Who waits for a place at a deployment's replicas, and who has one, in one gateway worker."""

    def __init__(
        self,
        now_s: Callable[[], float],
        *,
        order: str = "fair",
        max_waiting: int = MAX_WAITING,
        num_workers: int = 1,
    ) -> None:
        self._now_s = now_s
        self._max_waiting = max_waiting
        self._line: WaitingLine = line(order)
        self._is_ganged = order == "gang"
        self._waiters: dict[Ticket, asyncio.Future[ReplicaLoad]] = {}
        self._replicas = Replicas(num_workers)
        self._pace = Pace()
        self._retries = RetryBudget()
        self._look_timer: asyncio.TimerHandle | None = None
        self._ready_since_s: float | None = None
        self._ready_at_s: float | None = None
        self._arrived = 0
        self._arrived_tokens = 0
        self._waiting_tokens = 0

    # -- what is seen from outside

    @property
    def in_flight(self) -> int:
        """Requests at the replicas now."""
        return self._replicas.in_flight

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return len(self._waiters)

    @property
    def is_ready(self) -> bool:
        """There is a replica to send to."""
        return bool(self._replicas.current)

    @property
    def num_replicas(self) -> int:
        """Replicas that serve new requests."""
        return len(self._replicas.current)

    def in_flight_at(self, replica_id: str) -> int:
        """Requests at one replica now."""
        return self._replicas.in_flight_at(replica_id)

    @property
    def mean_output_tokens(self) -> float:
        """What an answer of this deployment takes, as seen so far."""
        return self._pace.mean_output_tokens

    def demand(self) -> DeploymentDemand:
        """What there is to do now, and was since the worker started."""
        now_s = self._now_s()
        oldest_s = min((ticket.arrived_s for ticket in self._waiters), default=now_s)
        return DeploymentDemand(
            waiting=self.waiting,
            running=self.in_flight,
            waiting_tokens=self._waiting_tokens,
            running_tokens=self._replicas.tokens,
            arrived=self._arrived,
            arrived_tokens=self._arrived_tokens,
            oldest_wait_s=max(0.0, now_s - oldest_s),
        )

    # -- what changes

    def update(self, deployment: DeploymentEntry) -> None:
        """Take over a new snapshot's replicas; running requests keep the one they have."""
        now_s = self._now_s()
        self._replicas.update(deployment)
        if self._is_ganged:
            for replica in self._replicas.current:
                replica.gang_left = replica.gang_left or 0
        if not self.is_ready:
            self._ready_since_s = None
        elif self._ready_since_s is None:
            self._ready_since_s = now_s
        self._ready_at_s = None if deployment.ready_in_s is None else now_s + deployment.ready_in_s
        if deployment.state in ("failed", "stopped"):
            self.fail_waiting(_why_none(deployment))
        self._admit_waiting()

    def see_peers(self, peers: Sequence[DeploymentDemand]) -> None:
        """What the other workers have to do for this deployment now."""
        self._replicas.see_peers(peers)
        self._admit_waiting()

    # -- places

    def arrive(self, ticket: Ticket) -> None:
        """A request has come; `take` or `wait` follow, once for every attempt."""
        self._arrived += 1
        self._arrived_tokens += ticket.tokens
        self._replicas.see(ticket)
        self._retries.request()

    def may_retry(self) -> bool:
        """Whether one more attempt is affordable; it is then spent."""
        return self._retries.take()

    def take(self, ticket: Ticket) -> ReplicaEntry | None:
        """A place at once, if there is one that nobody waits for; `release` gives it back."""
        if self._waiters or self._is_ganged:
            return None
        replica = self._replicas.place_for(ticket, self._now_s())
        if replica is None:
            return None
        self._line.passed(ticket)
        self._give(replica, ticket)
        return replica.entry

    async def wait(self, ticket: Ticket) -> ReplicaEntry:
        """A place when it is this ticket's turn; `release` gives it back.

        Raises Overloaded when the queue is full, when the deadline cannot be met or every replica is at rest, and what
        `expire` or `fail_waiting` say. Cancelling the wait leaves the queue at once.
        """
        refusal = self._refusal(ticket)
        if refusal is not None:
            raise refusal
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

    def release(self, replica_id: str, ticket: Ticket, usage: Usage | None = None) -> None:
        """The request at `replica_id` ended; `usage` is what it really took, where that is known."""
        self._replicas.release(replica_id, ticket)
        output_tokens = usage.completion_tokens if usage else 0
        self._pace.done(self._now_s(), output_tokens, is_idle=not self.in_flight)
        if usage is not None:
            self._line.correct(ticket, usage.total_tokens - ticket.tokens)
        if self._waiters:
            self._admit_waiting()

    def wrote(self, replica_id: str, ticket: Ticket) -> None:
        """The first token of a stream came: its prompt is read, and others may be."""
        if self._replicas.wrote(replica_id, ticket) and self._waiters:
            self._admit_waiting()

    def answered(self, replica_id: str) -> None:
        """A replica answered, whatever it was."""
        self._replicas.answered(replica_id)

    def left(self, replica_id: str) -> None:
        """A request ended before its replica showed anything of itself."""
        self._replicas.left(replica_id)

    def broke(self, replica_id: str, *, at_connect: bool) -> None:
        """A replica's connection broke, or could not be made."""
        self._replicas.broke(replica_id, self._now_s(), at_connect=at_connect)

    # -- who leaves without a place

    def expire(self, ticket: Ticket) -> None:
        """The deadline of a ticket has passed: if it still waits, it hears so."""
        self._refuse(ticket, self._too_late(ticket))

    def fail_waiting(self, reason: str) -> None:
        """Tell everybody who waits that the deployment will not serve them."""
        for ticket in list(self._waiters):
            self._refuse(ticket, ModelLoading(reason, retry_after_s=5))

    def expected_wait_s(self, ticket: Ticket) -> float | None:
        """How long a ticket that is added now would wait for a place; None when no rates are known."""
        running = Work(output_tokens=float(self._replicas.tokens))
        return wait_s(self._line.ahead_of(ticket), running, self.in_flight, self._rates())

    def _rates(self) -> Rates:
        rates = self._replicas.rates()
        return rates if rates.output_per_s else Rates(None, self._pace.output_per_s)

    def _refusal(self, ticket: Ticket) -> OutpaceError | None:
        now_s = self._now_s()
        if self.waiting >= self._max_waiting:
            return Overloaded("Too many requests are waiting for this model; try again.", retry_after_s=2)
        if not self.is_ready:
            return None
        rest_s = self._replicas.rest_s(now_s)
        if rest_s is not None and rest_s > _PATIENCE_WITH_REST_S:
            return Overloaded(
                f"No replica of this model can be reached; the next try is in {rest_s:.3g} s.",
                retry_after_s=rest_s,
            )
        expected_s, left_s = self.expected_wait_s(ticket), ticket.deadline_s - now_s
        if expected_s is None or expected_s <= _SURELY_LATE * left_s:
            return None
        return Overloaded(
            f"The expected wait is {expected_s:.3g} s, but the request's deadline is in {left_s:.3g} s; try again "
            "later, or allow more time.",
            retry_after_s=min(_LONGEST_RETRY_AFTER_S, max(1.0, expected_s - left_s)),
        )

    def _too_late(self, ticket: Ticket) -> OutpaceError:
        now_s = self._now_s()
        waited_s = now_s - ticket.arrived_s
        if self.is_ready:
            again_s = duration_s(Work(output_tokens=float(self._waiting_tokens)), self._rates()) or waited_s
            return Overloaded(
                f"No place became free before the request's deadline, in {waited_s:.3g} s; try again later, or "
                "allow more time.",
                retry_after_s=min(_LONGEST_RETRY_AFTER_S, max(1.0, again_s)),
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
            self.left(waiter.result().entry.id)
            self.release(waiter.result().entry.id, ticket)

    # -- who goes next

    def _admit_waiting(self) -> None:
        if self._is_ganged:
            self._form_gangs()
        found: list[ReplicaLoad] = []

        def may(ticket: Ticket) -> bool:
            replica = self._replicas.place_for(ticket, self._now_s(), self.waiting)
            if replica is not None:
                found.append(replica)
            return replica is not None

        while self._waiters and self.is_ready:
            ticket = self._line.next(may)
            if ticket is None:
                self._look_again()
                return
            waiter = self._waiters.pop(ticket)
            self._waiting_tokens -= ticket.tokens
            replica = found.pop()
            if waiter.done():
                # Its caller was cancelled in this very turn of the loop, and has not run since.
                self._line.correct(ticket, -ticket.tokens)
                continue
            self._give(replica, ticket)
            waiter.set_result(replica)

    def _form_gangs(self) -> None:
        now_s = self._now_s()
        oldest_s = min((ticket.arrived_s for ticket in self._waiters), default=now_s)
        for replica in self._replicas.current:
            size = gang_size(replica.in_flight, self.waiting, now_s - oldest_s, replica.limit)
            replica.gang_left = size or replica.gang_left

    def _look_again(self) -> None:
        """Nobody may go: without an event to wait for, time itself makes the difference."""
        if self._look_timer is not None:
            return
        rest_s = GANG_WAIT_S if self._is_ganged else self._time_alone_helps_in_s()
        if rest_s is None:
            return
        self._look_timer = asyncio.get_running_loop().call_later(rest_s + 0.001, self._looked)

    def _time_alone_helps_in_s(self) -> float | None:
        now_s = self._now_s()
        waits = self._replicas.rest_s(now_s), self._replicas.prefill_wait_s(now_s)
        return min((wait for wait in waits if wait is not None), default=None)

    def _looked(self) -> None:
        self._look_timer = None
        self._admit_waiting()

    def _give(self, replica: ReplicaLoad, ticket: Ticket) -> None:
        now_s = self._now_s()
        self._replicas.give(replica, ticket, now_s)
        self._pace.starts(now_s)
        if self._ready_since_s is not None and self._ready_since_s > ticket.arrived_s:
            ticket.held_s = self._ready_since_s - ticket.arrived_s


def _why_none(deployment: DeploymentEntry) -> str:
    if deployment.state == "stopped":
        return "The model was stopped; `outpace deploy` starts it."
    return f"The model could not be started: {deployment.reason or 'see `outpace status`'}"
