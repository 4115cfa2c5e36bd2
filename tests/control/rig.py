"""Control's parts around a real supervisor and the echo engine, in the test's own process."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from tests.fleet.launching import supervisor

from outpace.control.parts import ControlParts, Credentials, ProgramList, Progress, Resolved
from outpace.control.reconcile import Reconciler
from outpace.control.store import Wanted
from outpace.engines.registry import engine
from outpace.fleet.local import LocalPool
from outpace.fleet.replicas import Life, ReplicaPolicy
from outpace.fleet.restarts import RestartPolicy
from outpace.values import snapshot as snapshots
from outpace.values.clock import SystemClock
from outpace.values.deployment import DeploymentSpec, Replicas
from outpace.values.errors import ModelNotFound
from outpace.values.home import Home
from outpace.values.money import FREE, Price
from outpace.values.snapshot import Snapshot

QUICK = ReplicaPolicy(
    probe_every_s=0.2,
    idle_answer_s=0.5,
    busy_answer_s=60.0,
    snapshot_spread_s=0.05,
    drain_grace_s=30.0,
    stop_grace_s=2.0,
    canary_later_s=0.3,
    refill_after_s=0.1,
)
HASTY = RestartPolicy(first_wait_s=0.01, longest_wait_s=0.05, opens_after=3, healthy_after_s=3600.0)


def resolve_echo(spec: DeploymentSpec) -> Resolved:
    """Every model is the echo engine, but `absent`."""
    if spec.model == "absent":
        raise ModelNotFound("no model 'absent'")
    return Resolved(
        engine="echo",
        model=spec.model or "echo",
        engine_model=spec.name,
        owned_by="tests",
        precision="none",
        tasks=("chat", "completions", "embeddings"),
        context_tokens=512,
    )


def parts_in(home: Home, **changes: Any) -> ControlParts:
    """Parts with a local pool in `home`."""
    clock = SystemClock()
    pool = LocalPool(home, clock)

    async def programs() -> ProgramList:
        return ProgramList([child for child in await pool.everything() if not child.is_replica])

    def pull(spec: DeploymentSpec, progress: Progress) -> None:
        progress(1, 1)

    def list_price(model: str) -> Price | None:
        return FREE if model == "free-model" else None

    parts = ControlParts(
        home=home,
        clock=clock,
        credentials=Credentials(api_key="op-" + "a" * 43, admin_key="op-" + "b" * 43),
        pool=pool,
        programs=programs,
        engine=engine,
        resolve=resolve_echo,
        pull=pull,
        list_price=list_price,
        models=lambda: [{"id": "echo"}],
        secret=lambda name: None,
        replica_policy=QUICK,
        restart_policy=HASTY,
    )
    return msgspec.structs.replace(parts, **changes)


def wanted(name: str = "chat", replicas: int = 1, **fields: Any) -> Wanted:
    """A wish for echo replicas."""
    bounds = fields.pop("bounds", Replicas(min=replicas, max=replicas))
    return Wanted(spec=DeploymentSpec(name=name, model="echo", replicas=bounds, **fields), created_at=1.0)


class Rig:
    """A running reconciler and what tests look at."""

    def __init__(self, home: Home, parts: ControlParts) -> None:
        self.home = home
        self.parts = parts
        self.failures: list[str] = []
        self.reconciler = Reconciler(parts, self.failures.append)
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Rig":
        self._running = asyncio.create_task(self.reconciler.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._running is not None
        self._running.cancel()
        await asyncio.wait([self._running])

    @property
    def lives(self) -> dict[str, Life]:
        """Lives by id."""
        return self.reconciler.replicas.lives

    def snapshot(self) -> Snapshot:
        """What a gateway would read now."""
        try:
            return snapshots.decode(self.home.snapshot.read_bytes())
        except FileNotFoundError:
            return Snapshot(version=0, written_at=0)

    def shown(self, name: str = "chat") -> list[str]:
        """Replicas of a deployment that a gateway would use."""
        entry = self.snapshot().deployments.get(name)
        return [replica.id for replica in entry.replicas] if entry else []

    async def until(self, is_true: Callable[[], bool], deadline_s: float = 20.0) -> None:
        """Wait until something is so."""
        async with asyncio.timeout(deadline_s):
            while not is_true():
                await asyncio.sleep(0.01)

    async def until_shown(self, *replicas: str, name: str = "chat") -> None:
        """Wait until the gateway would use exactly these."""
        await self.until(lambda: self.shown(name) == list(replicas))


@asynccontextmanager
async def rig_in(home: Home, **changes: Any) -> AsyncIterator[Rig]:
    """A supervisor, and a reconciler that is not running yet."""
    with supervisor(home):
        yield Rig(home, parts_in(home, **changes))
