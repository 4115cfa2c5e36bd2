"""The life of a generating request: parse → admit → queue → engine → stream → settle."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import msgspec
import structlog

from outpace.engines.protocol import Call, Engine
from outpace.gateway.admit import Admitted, admit, find_deployment, require_rate, take_rate
from outpace.gateway.door import Cycle
from outpace.gateway.headers import JSON, SSE, answer_head
from outpace.gateway.openai.media import require_json
from outpace.gateway.openai.parse import parse_chat, parse_completion, parse_embedding
from outpace.gateway.openai.prompts import check_vocabulary
from outpace.gateway.openai.support import require_supported
from outpace.gateway.relay import ClientLeft, Relay
from outpace.gateway.upstream import EnginePool, Exchange, NothingReceived
from outpace.metering import Meter, RateState
from outpace.scheduling.queue import ReplicaQueue
from outpace.values.clock import Clock
from outpace.values.errors import EngineFailed, EngineTimedOut, InvalidInput, OutpaceError
from outpace.values.money import Price
from outpace.values.records import LoadSeen, Progressed, Refused, Reserved, Serving, Settled
from outpace.values.requests import (
    EmbeddingRequest,
    Endpoint,
    EngineBound,
    endpoint_of,
    num_choices,
)
from outpace.values.snapshot import DeploymentEntry, KeyEntry, ReplicaEntry, Snapshot
from outpace.values.usage import Usage

_log = structlog.get_logger()

PARSERS: Mapping[Endpoint, Callable[[bytes], EngineBound]] = {
    "chat": parse_chat,
    "completions": parse_completion,
    "embeddings": parse_embedding,
}
# At most one further try, and only when nothing was received from the first.
MAX_ATTEMPTS = 2
AVOID_S = 1.0
_LONGEST_LABEL = 128


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


class Service:
    """Deployments of one worker: their engines, queues and connections."""

    def __init__(
        self,
        *,
        meter: Meter,
        engine: Callable[[str], Engine],
        secret: Callable[[str], str | None],
        clock: Clock,
    ) -> None:
        self._meter = meter
        self._engine = engine
        self._secret = secret
        self._clock = clock
        self._snapshot = Snapshot(version=0, written_at=0.0)
        self._queues: dict[str, ReplicaQueue] = {}
        self._pools: dict[str, EnginePool] = {}
        self._refusals: Counter[tuple[str | None, str | None, int, str | None]] = Counter()
        self._last_load: tuple[dict[str, int], int] = ({}, 0)

    # -- what changes

    def take_over(self, snapshot: Snapshot) -> None:
        """Use a new snapshot; running requests end as they began."""
        self._snapshot = snapshot
        for name, deployment in snapshot.deployments.items():
            queue = self._queues.setdefault(name, ReplicaQueue())
            queue.update(deployment.replicas)
            if deployment.state == "failed":
                queue.fail_waiting(f"The model could not be started: {deployment.reason}")
        for name in self._queues.keys() - snapshot.deployments.keys():
            self._queues.pop(name).fail_waiting("The model is no longer served.")
        wanted = {replica.address for entry in snapshot.deployments.values() for replica in entry.replicas}
        for address in self._pools.keys() - wanted:
            self._pools.pop(address).close()

    def _in_flight(self) -> dict[str, int]:
        return {name: queue.in_flight + queue.waiting for name, queue in self._queues.items()}

    def refused(self, arrival: Arrival, error: OutpaceError) -> None:
        """Count a request that was turned away before it cost anything."""
        if arrival.is_metered:
            return
        self._refusals[(arrival.key_id, arrival.model, error.status, error.code)] += 1

    def report(self, connections: int) -> None:
        """Write down what was refused since the last report, and the load if it changed."""
        refusals, self._refusals = self._refusals, Counter()
        for (key_id, model, status, code), count in refusals.items():
            self._meter.refuse(Refused(self._clock.wall_s(), key_id, model, status, code, count))
        seen = ({name: count for name, count in self._in_flight().items() if count}, connections)
        if seen != self._last_load:
            self._last_load = seen
            self._meter.note_load(LoadSeen(self._clock.wall_s(), *seen))

    # -- one request

    async def generate(
        self,
        cycle: Cycle,
        endpoint: Endpoint,
        key: KeyEntry,
        headers: Iterable[tuple[bytes, bytes]],
        arrival: Arrival,
    ) -> None:
        """Serve one request to its end. Raises OutpaceError only while nothing was reserved or sent."""
        require_json(cycle.content_type)
        raw = await cycle.whole_body()
        if raw is None:
            return
        request = PARSERS[endpoint](raw)
        deployment = find_deployment(self._snapshot, key, request)
        arrival.model = deployment.name
        engine = self._engine(deployment.engine)
        require_supported(request, engine.capabilities, deployment.name)
        check_vocabulary(request, deployment.vocabulary)
        arrival.rate, arrival.taken_tokens = take_rate(self._meter, key, request, len(raw))
        require_rate(key, arrival.rate, arrival.taken_tokens)
        admitted = admit(self._meter, key, deployment, request, len(raw))
        run = _Run(self, cycle, request, engine, admitted, arrival, _client_label(headers))
        await run.to_the_end()

    def pool(self, replica: ReplicaEntry) -> EnginePool:
        """Connections to a replica."""
        pool = self._pools.get(replica.address)
        if pool is None:
            token = replica.token
            if token is None and replica.token_env is not None:
                token = self._secret(replica.token_env)
            pool = self._pools[replica.address] = EnginePool(replica.address, token)
        return pool

    def queue(self, deployment: str) -> ReplicaQueue:
        """Who waits for a deployment."""
        return self._queues[deployment]

    @property
    def meter(self) -> Meter:
        """Where every request is opened, marked and closed."""
        return self._meter

    @property
    def clock(self) -> Clock:
        """Time."""
        return self._clock


class _Run:
    """One admitted request; whatever happens, its reservation is settled exactly once."""

    def __init__(
        self,
        service: Service,
        cycle: Cycle,
        request: EngineBound,
        engine: Engine,
        admitted: Admitted,
        arrival: Arrival,
        client_label: str | None,
    ) -> None:
        self._service = service
        self._cycle = cycle
        self._request = request
        self._engine = engine
        self._admitted = admitted
        self._arrival = arrival
        self._client_label = client_label
        self._is_stream = not isinstance(request, EmbeddingRequest) and bool(request.stream)
        self._relay: Relay | None = None
        self._exchange: Exchange | None = None
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
        excluded: frozenset[str] = frozenset()
        while True:
            self._attempts += 1
            try:
                await self._attempt(excluded)
            except NothingReceived:
                if self._attempts >= MAX_ATTEMPTS:
                    raise
                excluded = frozenset({self._replica_id or ""})
            else:
                return

    async def _attempt(self, excluded: frozenset[str]) -> None:
        deployment = self._admitted.deployment
        queue = self._service.queue(deployment.name)
        replica = await queue.acquire(self._service.clock.monotonic_s(), excluded)
        try:
            await self._at(replica, deployment)
        except EngineFailed:
            queue.avoid(replica.id, self._service.clock.monotonic_s() + AVOID_S)
            raise
        finally:
            queue.release(replica.id)

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
        timeout = asyncio.get_running_loop().call_later(
            deployment.timeout_s, _time_out, exchange, deployment.timeout_s
        )
        try:
            await exchange.ended
            relay.finish()
        finally:
            timeout.cancel()
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
        if self._relay is not None and self._relay.has_sent:
            self._relay.fail(error)
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
            serving=self._serving,
        )

    def _cost_pusd(self, price: Price, usage: Usage) -> int:
        if not usage.total_tokens:
            return 0
        return price.cost_pusd(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)

    def _status(self, error: OutpaceError | None) -> int:
        has_sent = self._relay is not None and self._relay.has_sent
        if error is None or (has_sent and not isinstance(error, ClientLeft)):
            return 200
        return error.status

    def _charged_usage(self, error: OutpaceError | None) -> Usage:
        """What reached the client; an answer of which it got nothing costs nothing."""
        if self._relay is None or (error is not None and not self._relay.has_sent):
            return Usage()
        return self._relay.reader.usage

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
    )


def _outcome(error: OutpaceError | None) -> str:
    if error is None:
        return "completed"
    if isinstance(error, ClientLeft):
        return "cancelled"
    return "refused" if isinstance(error, InvalidInput) or error.status == 400 else "failed"


def _client_label(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The client's own request id: a label on the receipt, never a key to anything."""
    for name, value in headers:
        if name == b"x-client-request-id":
            return value[:_LONGEST_LABEL].decode("ascii", "replace")
    return None


def _time_out(exchange: Exchange, timeout_s: float) -> None:
    exchange.abort(EngineTimedOut(f"The engine did not finish within {timeout_s:g} s.", retry_after_s=1))
