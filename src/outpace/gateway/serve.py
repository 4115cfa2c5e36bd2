"""The deployments of one worker, and the way of a request to its run: parse → check → admit."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
import structlog

from outpace.engines.protocol import Engine
from outpace.gateway.admit import admit, find_deployment, require_rate, take_rate
from outpace.gateway.arrival import Arrival, new_ticket
from outpace.gateway.asked import asked
from outpace.gateway.door import Cycle
from outpace.gateway.openai.media import require_json
from outpace.gateway.openai.parse import parse_chat, parse_completion, parse_embedding
from outpace.gateway.openai.prompts import check_vocabulary
from outpace.gateway.openai.support import require_supported
from outpace.gateway.run import Run
from outpace.gateway.speculating import Speculating
from outpace.gateway.upstream import EnginePool
from outpace.metering import Meter
from outpace.scheduling.queue import ReplicaQueue
from outpace.values.clock import Clock
from outpace.values.errors import OutpaceError, UnsupportedParameter
from outpace.values.records import LoadSeen, Refused
from outpace.values.requests import Endpoint, EngineBound
from outpace.values.signals import DeploymentDemand
from outpace.values.snapshot import DeploymentEntry, KeyEntry, ReplicaEntry, Snapshot, VariantEntry

_log = structlog.get_logger()

PARSERS: Mapping[Endpoint, Callable[[bytes], EngineBound]] = {
    "chat": parse_chat,
    "completions": parse_completion,
    "embeddings": parse_embedding,
}


class Service:
    """Deployments of one worker: their engines, queues and connections."""

    def __init__(
        self,
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
        self._queue_order = "fair"
        self._num_workers = 1
        self._facts: dict[tuple[str, str], DeploymentEntry] = {}
        self._queues: dict[str, ReplicaQueue] = {}
        self._pools: dict[str, EnginePool] = {}
        self._speculating = Speculating()
        self._refusals: Counter[tuple[str | None, str | None, int, str | None]] = Counter()
        self._last_load: tuple[dict[str, int], int] = ({}, 0)
        # Called when a request finds nothing ready and must be held.
        self.on_held: Callable[[], None] = lambda: None

    # -- what changes

    def set_up(self, queue_order: str, num_workers: int) -> None:
        """Before the first snapshot: how requests wait, and how many workers share the replicas."""
        self._queue_order = queue_order
        self._num_workers = num_workers

    def take_over(self, snapshot: Snapshot) -> None:
        """Use a new snapshot; running requests end as they began."""
        self._snapshot = snapshot
        self._facts = {
            (deployment.name, variant.id): as_served(deployment, variant)
            for deployment in snapshot.deployments.values()
            for variant in deployment.variants
        }
        for name, deployment in snapshot.deployments.items():
            if name not in self._queues:
                self._queues[name] = ReplicaQueue(
                    self._clock.monotonic_s, order=self._queue_order, num_workers=self._num_workers
                )
            self._queues[name].update(deployment)
        for name in self._queues.keys() - snapshot.deployments.keys():
            self._queues.pop(name).fail_waiting("The model is no longer served.")
        wanted = {replica.address for entry in snapshot.deployments.values() for replica in entry.replicas}
        for address in self._pools.keys() - wanted:
            self._pools.pop(address).close()

    def _in_flight(self) -> dict[str, int]:
        return {name: queue.in_flight + queue.waiting for name, queue in self._queues.items()}

    def see_peers(self, peers: Callable[[str], Sequence[DeploymentDemand]]) -> None:
        """Take note of what the other workers have to do, by deployment."""
        for name, queue in self._queues.items():
            queue.see_peers(peers(name))

    def demand(self) -> dict[str, DeploymentDemand]:
        """What there is to do for every deployment that was ever asked for."""
        demands = {name: queue.demand() for name, queue in self._queues.items()}
        return {name: demand for name, demand in demands.items() if demand.arrived}

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
        unable = self._unable(request, deployment)
        check_vocabulary(request, deployment.vocabulary)
        wish = asked(headers)
        arrival.rate, arrival.taken_tokens = take_rate(self._meter, key, request, len(raw))
        require_rate(key, arrival.rate, arrival.taken_tokens)
        admitted = admit(self._meter, key, deployment, request, len(raw))
        ticket = new_ticket(key, deployment, request, arrival, wish, len(raw), self.queue(deployment.name))
        ticket.unable = unable
        run = Run(self, cycle, request, admitted, arrival, ticket, wish.label)
        await run.to_the_end()

    def _unable(self, request: EngineBound, deployment: DeploymentEntry) -> frozenset[str]:
        """The variants that cannot serve a request. Raises UnsupportedParameter when the first one cannot.

        The first is the main one: what a deployment accepts does not depend on which others are there just now.
        """
        main = deployment.variants[0].engine if deployment.variants else deployment.engine
        require_supported(request, self._engine(main).capabilities, deployment.name)
        unable = set()
        for variant in deployment.variants[1:]:
            try:
                require_supported(request, self._engine(variant.engine).capabilities, deployment.name)
            except UnsupportedParameter:
                unable.add(variant.id)
        return frozenset(unable)

    def facts(self, deployment: DeploymentEntry, replica: ReplicaEntry) -> DeploymentEntry:
        """The deployment as the replica's variant serves it."""
        return self._facts.get((deployment.name, replica.variant), deployment)

    def engine_of(self, facts: DeploymentEntry) -> Engine:
        """The adapter."""
        return self._engine(facts.engine)

    def without_continuing(self, deployment: DeploymentEntry) -> frozenset[str]:
        """Variants whose engine cannot go on behind a text; one without a name is the deployment itself."""
        engines = {variant.id: variant.engine for variant in deployment.variants} or {"": deployment.engine}
        return frozenset(
            name for name, engine in engines.items() if not self._engine(engine).capabilities.continues
        )

    @property
    def speculating(self) -> Speculating:
        """Decisions and records of speculation."""
        return self._speculating

    def pool(self, replica: ReplicaEntry) -> EnginePool:
        """Connections to a replica."""
        pool = self._pools.get(replica.address)
        if pool is None:
            token = replica.token
            if token is None and replica.token_env is not None:
                token = self._secret(replica.token_env)
            pool = self._pools[replica.address] = EnginePool(replica.address, token)
        return pool

    def held(self) -> None:
        """A request waits for a replica that is not there."""
        # After the request has joined the queue, so that it is counted.
        asyncio.get_running_loop().call_soon(self.on_held)

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


def as_served(deployment: DeploymentEntry, variant: VariantEntry) -> DeploymentEntry:
    """The deployment with what is particular to a variant of it."""
    is_same = variant.engine == deployment.engine
    return msgspec.structs.replace(
        deployment,
        engine=variant.engine,
        engine_model=variant.engine_model,
        context_tokens=variant.context_tokens or deployment.context_tokens,
        engine_settings={**(deployment.engine_settings if is_same else {}), **variant.engine_settings},
    )
