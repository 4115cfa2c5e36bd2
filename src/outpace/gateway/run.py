"""The life of one admitted request: queue → engine → stream → settle."""

import asyncio
from typing import Protocol

import msgspec

from outpace.engines.protocol import Call, Engine
from outpace.gateway.admit import Admitted, estimate_tokens
from outpace.gateway.asked import Asked
from outpace.gateway.door import Cycle
from outpace.gateway.headers import JSON, SSE, answer_head
from outpace.gateway.openai.errors import error_body
from outpace.gateway.relay import ClientLeft, Relay
from outpace.gateway.upstream import EnginePool, Exchange, NothingReceived
from outpace.metering import Meter, RateState
from outpace.scheduling.queue import ReplicaQueue
from outpace.scheduling.tickets import Ticket
from outpace.values.clock import Clock
from outpace.values.errors import EngineFailed, EngineTimedOut, InvalidInput, OutpaceError
from outpace.values.money import Price
from outpace.values.records import Progressed, Reserved, Serving, Settled
from outpace.values.requests import EmbeddingRequest, EngineBound, endpoint_of, num_choices
from outpace.values.snapshot import DeploymentEntry, KeyEntry, ReplicaEntry, VariantEntry
from outpace.values.usage import Usage

# At most one further try, and only when nothing was received from the first.
MAX_ATTEMPTS = 2
AVOID_S = 1.0
# A stream that waits gets its head and a comment after the first, then a comment each time the second has passed. A
# refusal within the first keeps its own status.
FIRST_COMMENT_S = 2.0
NEXT_COMMENT_S = 5.0
_COMMENT = b": keep-alive\n\n"


class Arrival(msgspec.Struct):
    """What is known of a request before it is admitted."""

    request_id: str
    at_s: float
    key_id: str | None = None
    model: str | None = None
    rate: RateState | None = None
    # Tokens taken from the key's limit per minute; what was not used is given back.
    taken_tokens: int = 0
    # It has a journal record of its own, so a failure is not counted as a refusal as well.
    is_metered: bool = False


class Deployments(Protocol):
    """What a run needs of its worker."""

    def pool(self, replica: ReplicaEntry) -> EnginePool: ...

    def queue(self, deployment: str) -> ReplicaQueue: ...

    @property
    def meter(self) -> Meter: ...

    @property
    def clock(self) -> Clock: ...

    def held(self) -> None:
        """A request waits for a replica that is not there."""
        ...


def new_ticket(
    key: KeyEntry,
    deployment: DeploymentEntry,
    request: EngineBound,
    arrival: Arrival,
    asked: Asked,
    raw_bytes: int,
) -> Ticket:
    """The request as the scheduler sees it."""
    prompt_tokens, output_tokens = estimate_tokens(request, raw_bytes)
    allowed_s = deployment.timeout_s if asked.deadline_s is None else asked.deadline_s
    return Ticket(
        key.id,
        arrived_s=arrival.at_s,
        deadline_s=arrival.at_s + allowed_s,
        priority=asked.priority,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
    )


class Run:
    """One admitted request; whatever happens, its reservation is settled exactly once."""

    def __init__(
        self,
        service: Deployments,
        cycle: Cycle,
        request: EngineBound,
        engine: Engine,
        admitted: Admitted,
        arrival: Arrival,
        ticket: Ticket,
        client_label: str | None,
    ) -> None:
        self._service = service
        self._cycle = cycle
        self._request = request
        self._engine = engine
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
        self._is_open = False
        self._attempts = 0

    async def to_the_end(self) -> None:
        queue_task = asyncio.current_task()
        assert queue_task is not None
        self._cycle.on_disconnect(lambda: self._client_left(queue_task))
        try:
            await self._attempt_twice()
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

    async def _attempt_twice(self) -> None:
        queue = self._service.queue(self._admitted.deployment.name)
        queue.arrive(self._ticket)
        while True:
            self._attempts += 1
            try:
                await self._attempt(queue)
            except NothingReceived:
                if self._attempts >= MAX_ATTEMPTS:
                    raise
                self._ticket.excluded = frozenset({self._replica_id or ""})
            else:
                return

    async def _attempt(self, queue: ReplicaQueue) -> None:
        replica = queue.take(self._ticket) or await self._wait(queue)
        try:
            await self._at(replica, self._admitted.deployment)
        except EngineFailed:
            queue.avoid(replica.id, self._service.clock.monotonic_s() + AVOID_S)
            raise
        finally:
            queue.release(replica.id, self._ticket, self._used_tokens())

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

    async def _at(self, replica: ReplicaEntry, deployment: DeploymentEntry) -> None:
        call = self._engine.call(self._request, deployment, self._arrival.request_id)
        self._queue_s = self._elapsed_s()
        self._replica_id = replica.id
        self._serving = serving_of(deployment, replica)
        self._open(replica)
        relay = self._relay = Relay(
            self._cycle,
            call.reader,
            is_stream=self._is_stream,
            head=self._head,
            mark=self._mark,
            now_s=self._service.clock.monotonic_s,
        )
        exchange = await self._start(call, replica, relay)
        self._limit_time(exchange, deployment.timeout_s)
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
        if self._relay is not None and self._relay.has_sent:
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

    def _open(self, replica: ReplicaEntry) -> None:
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
                engine=admitted.deployment.engine,
                replica=replica.id,
                stream=self._is_stream,
                reserved_pusd=admitted.reserved_pusd,
                price=admitted.price,
                client_request_id=self._client_label,
            )
        )
        self._is_open = self._arrival.is_metered = True

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
        meter.give_back_tokens(key.slot, arrival.taken_tokens - usage.total_tokens, key.tpm)

    def _settled(self, error: OutpaceError | None, usage: Usage) -> Settled:
        relay, price = self._relay, self._admitted.price
        return Settled(
            request_id=self._arrival.request_id,
            at_s=self._service.clock.wall_s(),
            status=self._status(error),
            outcome=_outcome(error),
            usage=usage,
            cost_pusd=None if price is None else self._cost_pusd(price, usage),
            finish_reason=relay.reader.finish_reason if relay else None,
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
        ticket = self._ticket
        if ticket.priority == "interactive" and not ticket.held_s:
            return self._serving
        return msgspec.structs.replace(
            self._serving or Serving(), priority=ticket.priority, held_s=round(ticket.held_s, 6)
        )

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

    def _used_tokens(self) -> int | None:
        """What the engine has counted; None when it was not reached."""
        if self._relay is None:
            return None
        return self._relay.reader.usage.total_tokens or None

    def _ttft_s(self) -> float | None:
        first_s = self._relay.first_byte_s if self._relay else None
        return None if first_s is None else first_s - self._arrival.at_s

    def _elapsed_s(self) -> float:
        return self._service.clock.monotonic_s() - self._arrival.at_s


def serving_of(deployment: DeploymentEntry, replica: ReplicaEntry) -> Serving | None:
    """What a replica serves, for the receipt; None where the snapshot does not say."""
    variant = next((entry for entry in deployment.variants if entry.id == replica.variant), None)
    if variant is None:
        return None
    return Serving(
        variant=variant.id,
        engine_version=variant.engine_version,
        precision=variant.precision,
        kv_precision=variant.kv_precision,
        is_proven=variant.is_proven,
        speculation=_launched_speculation(variant),
    )


def _launched_speculation(variant: VariantEntry) -> str | None:
    """What the replica was launched with, where that is not decided per request."""
    method = str(variant.engine_settings.get("speculation", "off"))
    return None if variant.speculation or method in ("off", "none") else method


def _outcome(error: OutpaceError | None) -> str:
    if error is None:
        return "completed"
    if isinstance(error, ClientLeft):
        return "cancelled"
    return "refused" if isinstance(error, InvalidInput) or error.status == 400 else "failed"


def _time_out(exchange: Exchange, timeout_s: float) -> None:
    exchange.abort(EngineTimedOut(f"The engine did not finish within {timeout_s:g} s.", retry_after_s=1))
