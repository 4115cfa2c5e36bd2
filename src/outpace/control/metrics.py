"""Prometheus metrics of the platform. Labels are bounded: deployments, engines, outcomes, states; never keys."""

from collections.abc import Iterable, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from outpace.control.companions import owner_of
from outpace.fleet.replicas import Life
from outpace.values.money import PUSD_PER_USD
from outpace.values.records import LoadSeen, Refused, Reserved, Settled
from outpace.values.snapshot import DeploymentEntry

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_STATES = ("starting", "ready", "draining", "failed")
_DEPLOYMENT_STATES = ("ready", "starting", "sleeping", "failed")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """One registry; counters begin at zero with each life of control, as Prometheus expects."""

    def __init__(self) -> None:
        # A second series per series, for OpenMetrics only, which is not what is served here.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library does not type it
        self.registry = CollectorRegistry()
        self._define_counters()
        self._define_gauges()
        ProcessCollector(namespace="outpace_control", registry=self.registry)

    def _define_counters(self) -> None:
        by_deployment = ("deployment", "engine")
        registry = self.registry
        self._requests = Counter(
            "outpace_requests",
            "Requests that ended.",
            (*by_deployment, "status", "outcome"),
            registry=registry,
        )
        self._refused = Counter(
            "outpace_refused_requests", "Requests turned away at the door.", ("status",), registry=registry
        )
        self._tokens = Counter(
            "outpace_tokens", "Tokens of ended requests.", (*by_deployment, "kind"), registry=registry
        )
        self._cost = Counter(
            "outpace_cost_usd", "Price of ended requests.", ("deployment",), registry=registry
        )
        self._failures = Counter(
            "outpace_replica_failures", "Replicas that ended unasked.", ("deployment",), registry=registry
        )
        self._moves = Counter(
            "outpace_moved_streams",
            "Times that a stream went on at another replica.",
            ("deployment",),
            registry=registry,
        )
        self._held = Counter(
            "outpace_held_requests",
            "Requests that waited for a model that was not there.",
            ("deployment",),
            registry=registry,
        )
        self._ttft = Histogram(
            "outpace_ttft_seconds",
            "To the first byte of an answer.",
            by_deployment,
            registry=registry,
            buckets=_SECONDS,
        )
        self._queue = Histogram(
            "outpace_queue_seconds",
            "Waiting for a replica.",
            by_deployment,
            registry=registry,
            buckets=_SECONDS,
        )
        self._duration = Histogram(
            "outpace_request_seconds",
            "From request to end.",
            by_deployment,
            registry=registry,
            buckets=_SECONDS,
        )

    def _define_gauges(self) -> None:
        registry = self.registry
        self._in_flight = Gauge(
            "outpace_requests_in_flight", "Requests that run or wait.", ("deployment",), registry=registry
        )
        self._connections = Gauge("outpace_connections", "Open client connections.", registry=registry)
        self._replicas = Gauge(
            "outpace_replicas", "Replicas by state.", ("deployment", "state"), registry=registry
        )
        self._companions = Gauge(
            "outpace_companion_replicas",
            "Replicas of second variants by state.",
            ("deployment", "state"),
            registry=registry,
        )
        self._deployments = Gauge(
            "outpace_deployments", "Deployments by state.", ("state",), registry=registry
        )
        self._lag = Gauge(
            "outpace_ledger_seconds_behind", "Since the ledger was up to date.", registry=registry
        )

    def settled(self, reserved: Reserved, settled: Settled) -> None:
        """A request ended."""
        by_deployment = (reserved.deployment, reserved.engine)
        self._requests.labels(*by_deployment, status_class(settled.status), settled.outcome).inc()
        fresh_tokens = settled.usage.prompt_tokens - settled.usage.cached_tokens
        for kind, tokens in (
            ("prompt", max(0, fresh_tokens)),
            ("cached", settled.usage.cached_tokens),
            ("completion", settled.usage.completion_tokens),
            ("drafted", settled.usage.drafted_tokens),
            ("accepted", settled.usage.accepted_tokens),
        ):
            self._tokens.labels(*by_deployment, kind).inc(tokens)
        self._cost.labels(reserved.deployment).inc((settled.cost_pusd or 0) / PUSD_PER_USD)
        self._duration.labels(*by_deployment).observe(settled.duration_s)
        if settled.serving is not None:
            self._moves.labels(reserved.deployment).inc(settled.serving.moves)
            self._held.labels(reserved.deployment).inc(settled.serving.held_s > 0)
        if settled.ttft_s is not None:
            self._ttft.labels(*by_deployment).observe(settled.ttft_s)
        if settled.queue_s is not None:
            self._queue.labels(*by_deployment).observe(settled.queue_s)

    def refused(self, refused: Refused) -> None:
        """Requests were turned away."""
        self._refused.labels(str(refused.status)).inc(refused.count)

    def replica_failed(self, deployment: str) -> None:
        """A replica ended unasked, hung, or did not come up."""
        self._failures.labels(deployment).inc()

    def show_load(self, loads: Iterable[LoadSeen]) -> None:
        """What all workers have in flight now."""
        seen = list(loads)
        self._in_flight.clear()
        for load in seen:
            for deployment, count in load.in_flight.items():
                self._in_flight.labels(deployment).inc(count)
        self._connections.set(sum(load.connections for load in seen))

    def show_fleet(self, deployments: Sequence[DeploymentEntry], lives: Sequence[Life]) -> None:
        """States of deployments and replicas now."""
        for state in _DEPLOYMENT_STATES:
            self._deployments.labels(state).set(sum(entry.state == state for entry in deployments))
        self._replicas.clear()
        self._companions.clear()
        for kept in {*(entry.name for entry in deployments), *(life.deployment for life in lives)}:
            own, name = [life for life in lives if life.deployment == kept], owner_of(kept)
            gauge = self._replicas if name == kept else self._companions
            for state in _STATES:
                gauge.labels(name, state).set(sum(life.state == state for life in own))

    def show_ledger(self, behind_s: float) -> None:
        """How long ago the ledger had booked everything."""
        self._lag.set(behind_s)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def status_class(status: int) -> str:
    """`2xx` … `5xx`; `none` when no status was sent."""
    return f"{status // 100}xx" if 100 <= status <= 599 else "none"
