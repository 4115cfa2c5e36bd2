"""The life of one admitted request: queue → engine → stream → settle."""

import asyncio
from typing import Protocol

from outpace.engines.protocol import Call, Engine, Hints
from outpace.gateway.admit import Admitted
from outpace.gateway.arrival import Arrival, guessed_with, served, serving_of
from outpace.gateway.door import Cycle
from outpace.gateway.headers import JSON, SSE, answer_head
from outpace.gateway.moving import Mover, Parted, ending, tokens_left
from outpace.gateway.openai.errors import error_body
from outpace.gateway.prefix import cache_salt
from outpace.gateway.relay import ClientLeft, Relay, outcome_of
from outpace.gateway.speculating import Speculating
from outpace.gateway.upstream import EngineDied, EnginePool, Exchange, NothingReceived
from outpace.metering import Meter
from outpace.scheduling.queue import ReplicaQueue
from outpace.scheduling.speculation import Gate
from outpace.scheduling.tickets import Ticket
from outpace.values.clock import Clock
from outpace.values.errors import (
    EngineFailed,
    EngineTimedOut,
    OutpaceError,
    UnsupportedParameter,
)
from outpace.values.money import Price
from outpace.values.records import Progressed, Reserved, Serving, Settled
from outpace.values.requests import EmbeddingRequest, EngineBound, endpoint_of, num_choices
from outpace.values.snapshot import DeploymentEntry, ReplicaEntry
from outpace.values.usage import Usage

# Replicas that a request may be tried at, counting those that could not be reached.
MAX_ATTEMPTS = 4
# Engines that may die over one request: it may be the cause. A stream that has come some way is granted more.
MAX_DEATHS = 2
MAX_DEATHS_OF_STREAM = 4
# A stream that waits gets its head and a comment after the first, then a comment each time the second has passed. A
# refusal within the first keeps its own status.
FIRST_COMMENT_S = 2.0
NEXT_COMMENT_S = 5.0
_COMMENT = b": keep-alive\n\n"


class Deployments(Protocol):
    """What a run needs of its worker."""

    def pool(self, replica: ReplicaEntry) -> EnginePool: ...

    def queue(self, deployment: str) -> ReplicaQueue: ...

    def engine_of(self, facts: DeploymentEntry) -> Engine: ...

    def without_continuing(self, deployment: DeploymentEntry) -> frozenset[str]: ...

    def facts(self, deployment: DeploymentEntry, replica: ReplicaEntry) -> DeploymentEntry:
        """The deployment as the replica's variant serves it."""
        ...

    @property
    def speculating(self) -> Speculating: ...

    @property
    def meter(self) -> Meter: ...

    @property
    def clock(self) -> Clock: ...

    def held(self) -> None:
        """A request waits for a replica that is not there."""
        ...


class Run:
    """One admitted request; whatever happens, its reservation is settled exactly once."""

    def __init__(
        self,
        service: Deployments,
        cycle: Cycle,
        request: EngineBound,
        admitted: Admitted,
        arrival: Arrival,
        ticket: Ticket,
        client_label: str | None,
    ) -> None:
        self._service = service
        self._cycle = cycle
        self._request = request
        self._admitted = admitted
        self._arrival = arrival
        self._ticket = ticket
        self._client_label = client_label
        self._is_stream = not isinstance(request, EmbeddingRequest) and bool(request.stream)
        self._relay: Relay | None = None
        self._exchange: Exchange | None = None
        self._timeout: asyncio.TimerHandle | None = None
        self._comment_timer: asyncio.TimerHandle | None = None
        self._queue_s: float | None = None
        self._replica_id: str | None = None
        self._serving: Serving | None = None
        self._facts: DeploymentEntry | None = None
        self._facts_variant = ""
        self._finish_reason: str | None = None
        self._gate: Gate | None = None
        self._mover = Mover(request)
        self._is_open = False
        self._attempts = 0
        self._deaths = 0
        self._moves = 0

    async def to_the_end(self) -> None:
        queue_task = asyncio.current_task()
        assert queue_task is not None
        self._cycle.on_disconnect(lambda: self._client_left(queue_task))
        try:
            await self._serve()
        except OutpaceError as error:
            self._close(error)
            self._tell(error)
        except asyncio.CancelledError:
            self._close(ClientLeft("The client left."))
            if not self._cycle.is_disconnected:
                raise
        except BaseException:
            self._close(EngineFailed("Something broke inside the gateway."))
            raise
        else:
            self._close(None)

    # -- attempts

    async def _serve(self) -> None:
        """Attempts at replicas, one after the other, until one answers to the end or nothing more may be tried."""
        queue = self._service.queue(self._admitted.deployment.name)
        queue.arrive(self._ticket)
        while True:
            try:
                await self._attempt(queue)
            except NothingReceived as error:
                if not error.on_kept and not self._may_go_on(error, queue):
                    raise
            except Parted:
                self._mover.parted()
                self._moves -= 1
                if self._cycle.is_disconnected or not self._can_move():
                    raise
            except EngineFailed as error:
                if not self._may_go_on(error, queue):
                    raise
            except UnsupportedParameter:
                if not self._leave_out(frozenset({self._facts_variant})):
                    raise
            else:
                return

    async def _attempt(self, queue: ReplicaQueue) -> None:
        self._exchange = None
        replica = queue.take(self._ticket) or await self._wait(queue)
        self._attempts += 1
        self._replica_id = replica.id
        is_told = False
        try:
            await self._at(replica, queue)
            is_told = True
            queue.answered(replica.id)
        except NothingReceived as error:
            is_told = not error.on_kept
            if is_told:
                queue.broke(replica.id, at_connect=error.at_connect)
            raise
        except EngineDied:
            is_told = True
            queue.broke(replica.id, at_connect=False)
            raise
        finally:
            if not is_told:
                queue.left(replica.id)
            queue.release(replica.id, self._ticket, self._used())

    def _may_go_on(self, error: EngineFailed, queue: ReplicaQueue) -> bool:
        """Whether another replica may be tried after this: nothing was sent, or the stream can move."""
        if self._cycle.is_disconnected or self._attempts >= MAX_ATTEMPTS:
            return False
        has_sent = self._has_sent
        if has_sent and not self._can_move():
            return False
        if not has_sent and not isinstance(error, EngineDied):
            return False
        if not (isinstance(error, NothingReceived) and error.at_connect):
            self._deaths += 1
        if self._deaths >= (MAX_DEATHS_OF_STREAM if has_sent else MAX_DEATHS):
            return False
        # A stream that has given tokens is no storm: its own deaths bound it, not the budget of the others.
        if not has_sent and not queue.may_retry():
            return False
        self._ticket.excluded |= {self._replica_id or ""}
        if has_sent:
            self._ticket.deadline_s = self._service.clock.monotonic_s() + self._admitted.deployment.timeout_s
        return True

    @property
    def _has_sent(self) -> bool:
        return self._relay is not None and self._relay.has_sent

    def _can_move(self) -> bool:
        """Whether the stream can go on at some variant."""
        self._mover.stopped(
            self._relay.first_byte_s if self._relay else None, self._service.clock.monotonic_s()
        )
        if self._mover.repeats:
            return True
        without = self._service.without_continuing(self._admitted.deployment)
        return self._mover.continues and self._leave_out(without)

    def _leave_out(self, variants: frozenset[str]) -> bool:
        """Variants that cannot serve this request; False when there is no other."""
        self._ticket.unable |= variants
        known = {variant.id for variant in self._admitted.deployment.variants} or {""}
        return bool(known - self._ticket.unable)

    async def _wait(self, queue: ReplicaQueue) -> ReplicaEntry:
        """A place in turn; meanwhile a stream's client hears that it is not forgotten."""
        if not queue.is_ready and not queue.waiting:
            self._service.held()
        loop = asyncio.get_running_loop()
        self._comment_timer = loop.call_later(FIRST_COMMENT_S, self._comment) if self._is_stream else None
        expiry = loop.call_later(max(0.0, self._left_s()), queue.expire, self._ticket)
        try:
            return await queue.wait(self._ticket)
        finally:
            expiry.cancel()
            if self._comment_timer is not None:
                self._comment_timer.cancel()

    def _comment(self) -> None:
        if self._cycle.is_disconnected:
            return
        if not self._cycle.is_started:
            self._cycle.start_stream(200, self._head())
        if not self._cycle.is_paused:
            self._cycle.write_chunk(_COMMENT)
        self._comment_timer = asyncio.get_running_loop().call_later(NEXT_COMMENT_S, self._comment)

    async def _at(self, replica: ReplicaEntry, queue: ReplicaQueue) -> None:
        facts = self._facts = self._service.facts(self._admitted.deployment, replica)
        is_same_variant = self._facts_variant == replica.variant
        self._facts_variant = replica.variant
        is_moved = self._has_sent
        if is_moved and self._is_said():
            self._end_stream()
            return
        can_continue = self._mover.continues and self._service.engine_of(facts).capabilities.continues
        is_again = is_moved and self._mover.repeats and (is_same_variant or not can_continue)
        if is_moved and not (is_again or can_continue):
            # Of a variant that came after this request.
            raise UnsupportedParameter("stream", f"{facts.engine} cannot go on behind a text")
        call = self._call(facts, replica, queue, is_behind=is_moved and not is_again)
        if self._queue_s is None:
            self._queue_s = self._elapsed_s()
        self._serving = serving_of(facts, replica)
        self._open(replica, facts)
        if not is_moved or self._relay is None:
            self._relay = self._new_relay(call)
        else:
            self._moves += 1
            self._relay.follow(self._mover.follow(call.reader, self._relay.reader.usage, is_again=is_again))
        await self._exchanged(call, replica, facts.timeout_s, self._relay)

    def _call(
        self, facts: DeploymentEntry, replica: ReplicaEntry, queue: ReplicaQueue, *, is_behind: bool
    ) -> Call:
        variant = next((each for each in facts.variants if each.id == replica.variant), None)
        users = queue.in_flight_at(replica.id)
        self._gate = self._service.speculating.decide(facts.name, variant, users)
        hints = Hints(
            speculate=None if self._gate is None else self._gate.speculate,
            cache_salt=cache_salt(self._admitted.key.id),
            sent_text=self._mover.transcript.text if is_behind and self._mover.transcript else "",
            sent_tokens=self._relay.reader.usage.completion_tokens if is_behind and self._relay else 0,
        )
        engine = self._service.engine_of(facts)
        return engine.call(self._request, facts, self._arrival.request_id, hints)

    def _is_said(self) -> bool:
        """Everything was sent but for the stream's last events."""
        assert self._relay is not None
        reader = self._relay.reader
        left_tokens = tokens_left(self._request, reader.usage.completion_tokens)
        return reader.finish_reason is not None or (left_tokens is not None and left_tokens <= 0)

    def _end_stream(self) -> None:
        assert self._relay is not None
        assert self._mover.transcript is not None
        reader = self._relay.reader
        self._finish_reason = reader.finish_reason or "length"
        self._cycle.end_stream(
            ending(self._request, self._mover.transcript, reader.usage, reader.finish_reason)
        )
        self._relay.close()

    def _new_relay(self, call: Call) -> Relay:
        return Relay(
            self._cycle,
            call.reader,
            is_stream=self._is_stream,
            head=self._head,
            mark=self._mark,
            wrote=self._first_token,
            now_s=self._service.clock.monotonic_s,
            transcript=self._mover.transcript,
        )

    async def _exchanged(self, call: Call, replica: ReplicaEntry, timeout_s: float, relay: Relay) -> None:
        exchange = await self._start(call, replica, relay)
        self._limit_time(exchange, timeout_s)
        try:
            await exchange.ended
            relay.finish()
        finally:
            if self._timeout is not None:
                self._timeout.cancel()
            exchange.drop()

    async def _start(self, call: Call, replica: ReplicaEntry, relay: Relay) -> Exchange:
        pool = self._service.pool(replica)
        exchange = await pool.start(
            call.path, call.body, self._arrival.request_id, relay, fresh=self._attempts > 1
        )
        self._exchange = exchange
        relay.bind(exchange)
        if self._cycle.is_disconnected:
            exchange.abort(ClientLeft("The client left."))
        return exchange

    def _limit_time(self, exchange: Exchange, timeout_s: float) -> None:
        """Give up at the caller's deadline, or the deployment's time-out: a stream by its first byte, others whole."""
        loop = asyncio.get_running_loop()
        left_s = self._left_s()
        if left_s < timeout_s:
            self._timeout = loop.call_later(max(0.0, left_s), self._deadline_passed, exchange, timeout_s)
        else:
            self._timeout = loop.call_later(timeout_s, _time_out, exchange, timeout_s)

    def _deadline_passed(self, exchange: Exchange, timeout_s: float) -> None:
        if self._has_sent:
            self._timeout = asyncio.get_running_loop().call_later(timeout_s, _time_out, exchange, timeout_s)
            return
        allowed_s = self._ticket.deadline_s - self._ticket.arrived_s
        what = "begin" if self._is_stream else "finish"
        exchange.abort(
            EngineTimedOut(
                f"The engine did not {what} its answer before the request's deadline, in {allowed_s:.3g} s; allow more "
                "time, or ask for less.",
                retry_after_s=1,
            )
        )

    def _left_s(self) -> float:
        return self._ticket.deadline_s - self._service.clock.monotonic_s()

    # -- the client

    def _head(self) -> list[tuple[bytes, bytes]]:
        content_type = SSE if self._is_stream else JSON
        return answer_head(self._arrival.request_id, content_type, self._elapsed_s(), self._arrival.rate)

    def _client_left(self, task: "asyncio.Task[object]") -> None:
        if self._exchange is not None:
            self._exchange.abort(ClientLeft("The client left."))
        else:
            task.cancel()

    def _tell(self, error: OutpaceError) -> None:
        if self._cycle.is_disconnected:
            return
        if self._cycle.is_started and not self._cycle.is_answered:
            self._cycle.end_stream(b"data: " + error_body(error) + b"\n\n")
            return
        raise error

    # -- the meter

    def _open(self, replica: ReplicaEntry, facts: DeploymentEntry) -> None:
        if self._is_open:
            return
        admitted = self._admitted
        self._service.meter.open(
            Reserved(
                request_id=self._arrival.request_id,
                at_s=self._service.clock.wall_s(),
                key_id=admitted.key.id,
                slot=admitted.key.slot,
                deployment=admitted.deployment.name,
                model=admitted.deployment.name,
                endpoint=endpoint_of(self._request),
                engine=facts.engine,
                replica=replica.id,
                stream=self._is_stream,
                reserved_pusd=admitted.reserved_pusd,
                price=admitted.price,
                client_request_id=self._client_label,
            )
        )
        self._is_open = self._arrival.is_metered = True

    def _first_token(self) -> None:
        self._service.queue(self._admitted.deployment.name).wrote(self._replica_id or "", self._ticket)

    def _mark(self, usage: Usage) -> None:
        self._service.meter.mark(
            Progressed(
                self._arrival.request_id, usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens
            )
        )

    def _close(self, error: OutpaceError | None) -> None:
        meter, key, arrival = self._service.meter, self._admitted.key, self._arrival
        usage = self._charged_usage(error)
        if not self._is_open:
            meter.release(key.slot, self._admitted.reserved_pusd)
        else:
            meter.close(self._settled(error, usage))
        if error is None:
            self._note_speculation(usage)
        meter.give_back_tokens(key.slot, arrival.taken_tokens - usage.total_tokens, key.tpm)

    def _settled(self, error: OutpaceError | None, usage: Usage) -> Settled:
        relay, price = self._relay, self._admitted.price
        return Settled(
            request_id=self._arrival.request_id,
            at_s=self._service.clock.wall_s(),
            status=self._status(error),
            outcome=outcome_of(error),
            usage=usage,
            cost_pusd=None if price is None else self._cost_pusd(price, usage),
            finish_reason=self._finish_reason or (relay.reader.finish_reason if relay else None),
            error_code=error.code if error else None,
            replica=self._replica_id,
            queue_s=self._queue_s,
            ttft_s=self._ttft_s(),
            duration_s=self._elapsed_s(),
            attempts=self._attempts,
            num_choices=num_choices(self._request),
            serving=self._served(),
        )

    def _served(self) -> Serving | None:
        is_on = self._gate is not None and self._gate.speculate
        method = guessed_with(self._facts, self._facts_variant) if is_on else None
        return served(self._serving, self._ticket, self._moves, speculates=is_on, method=method)

    def _cost_pusd(self, price: Price, usage: Usage) -> int:
        if not usage.total_tokens:
            return 0
        return price.cost_pusd(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)

    def _status(self, error: OutpaceError | None) -> int:
        if error is None or (self._cycle.is_started and not isinstance(error, ClientLeft)):
            return 200
        return error.status

    def _charged_usage(self, error: OutpaceError | None) -> Usage:
        """What reached the client; an answer of which it got nothing costs nothing."""
        if self._relay is None or (error is not None and not self._relay.has_sent):
            return Usage()
        return self._relay.reader.usage

    def _used(self) -> Usage | None:
        """What the engine has counted; None when it was not reached."""
        usage = self._relay.reader.usage if self._relay is not None else None
        return usage if usage is not None and usage.total_tokens else None

    def _note_speculation(self, usage: Usage) -> None:
        ttft_s = self._ttft_s()
        if self._gate is None or self._moves or not self._is_stream or ttft_s is None:
            return
        name = self._admitted.deployment.name
        self._service.speculating.note(
            name, self._facts_variant, self._gate, usage, self._elapsed_s() - ttft_s
        )

    def _ttft_s(self) -> float | None:
        first_s = self._relay.first_byte_s if self._relay else None
        return None if first_s is None else first_s - self._arrival.at_s

    def _elapsed_s(self) -> float:
        return self._service.clock.monotonic_s() - self._arrival.at_s


def _time_out(exchange: Exchange, timeout_s: float) -> None:
    exchange.abort(EngineTimedOut(f"The engine did not finish within {timeout_s:g} s.", retry_after_s=1))
