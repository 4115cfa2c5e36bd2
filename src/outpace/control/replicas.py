"""The replicas that control has: starting, adopting, tending and ending them in the pool."""

import asyncio
import secrets
from collections.abc import Callable
from typing import Protocol

import msgspec
import structlog

from outpace.control.assembly import Note, facts_of, settings_of
from outpace.control.parts import ControlParts
from outpace.control.placing import placed, require_placeable
from outpace.control.served import Served
from outpace.control.standbys import Standbys
from outpace.engines.protocol import Engine, Readiness
from outpace.fleet.pool import Child, Fetching
from outpace.fleet.reasons import why_ended
from outpace.fleet.replicas import Life, Turn, turned
from outpace.fleet.starts import StartHistory, phases_told
from outpace.values.deployment import Launch, LaunchOrder
from outpace.values.errors import OutpaceError
from outpace.values.snapshot import DeploymentEntry, Snapshot
from outpace.values.starts import StartedFrom, start_bill

_LOG = structlog.get_logger()
_POOL_AGAIN_S = 0.25
_START_PATIENCE_S = 0.25
_NEVER_S = float("-inf")
_HAND_OVER_DEADLINE_S = 0.5


class Cost(msgspec.Struct):
    """What is known of a start's cost while it goes on."""

    took_s: dict[str, float]
    started_from: StartedFrom = "nothing"


class Listener(Protocol):
    """Who wants to know what becomes of replicas."""

    def replica_ready(self, life: Life, load_s: float) -> None: ...

    def replica_failed(self, life: Life, reason: str, lived_s: float) -> None: ...


class Replicas:
    """Lives by id, the task that tends each, and what their processes carry. Lives on one event loop."""

    def __init__(self, parts: ControlParts, listener: Listener, changed: Callable[[], None]) -> None:
        self._parts = parts
        self._listener = listener
        self._changed = changed
        self.lives: dict[str, Life] = {}
        # Monotonic second of the last token that a client got, by replica.
        self.last_token_s: dict[str, float] = {}
        self._notes: dict[str, Note] = {}
        self._tending: dict[str, asyncio.Task[None]] = {}
        self._ends: list[Child] = []
        self._costs: dict[str, Cost] = {}
        # Monotonic second of the last answer as it was proven, by version and name of the canary.
        self._canaries_s: dict[tuple[str, str], float] = {}
        self.history = StartHistory(parts.home.starts)
        self.standbys = Standbys(parts.pool, parts.clock)
        # By replica's id as their name.
        self._starting: set[asyncio.Task[None]] = set()

    def of(self, deployment: str) -> list[Life]:
        """The replicas of a deployment, by number."""
        own = [life for life in self.lives.values() if life.deployment == deployment]
        return sorted(own, key=lambda life: (len(life.id), life.id))

    def is_starting(self) -> bool:
        """Whether a replica is on its way up."""
        return any(life.state == "starting" for life in self.lives.values())

    def fetching(self, replica_id: str) -> Fetching | None:
        """How far the weights of a replica are on their way to its machine; None when none are."""
        return self._parts.pool.fetching(replica_id)

    def facts(self, digest: str) -> DeploymentEntry | None:
        """The facts that replicas of this version were started with; None when there are none."""
        noted = (note.facts for note in self._notes.values() if note.digest == digest)
        return next(noted, None)

    # What happens to them

    async def collect_ends(self) -> None:
        """Take down every end that the pool tells, until cancelled."""
        async for child in self._parts.pool.ends():
            self._ends.append(child)
            self._changed()

    def take_ends(self) -> None:
        """Turn the lives whose ends were told."""
        ends, self._ends = self._ends, []
        for child in ends:
            self.standbys.take_end(child)
            self._take_end(child)

    async def compare_with_pool(self) -> None:
        """The pool's list is the truth: ends that were missed are taken, strangers are stopped."""
        children = {child.name: child for child in await self._parts.pool.replicas()}
        for life in [life for life in self.lives.values() if life.is_running]:
            child = children.get(life.id)
            if child is None or child.pid != life.pid:
                child = Child(
                    name=life.id, pid=life.pid or 0, started_at=0.0, exit_code=1, last_line="it is gone"
                )
            if child.exit_code is not None:
                self._take_end(child)
        self.standbys.missed(children.values())
        for child in children.values():
            if child.exit_code is None and child.name not in self.lives and child.name not in self.standbys:
                _LOG.warning("unknown_replica_stopped", replica=child.name, pid=child.pid)
                await self._parts.pool.stop(child.name, self._parts.replica_policy.stop_grace_s)

    def _take_end(self, child: Child) -> None:
        life = self.lives.get(child.name)
        if life is None or life.pid != child.pid or not life.is_running:
            return
        self._end_tending(life.id)
        if life.state in ("starting", "ready"):
            self._fail(life, "ended", why_ended(child.exit_code or 0, child.last_line))
            return
        ended = turned(life, "ended")
        self._set(ended)
        if ended.state == "stopped":
            self._forget(life)
            _LOG.info("replica_stopped", replica=life.id)

    def _fail(self, life: Life, turn: Turn, reason: str) -> None:
        self._set(turned(life, turn, reason))
        lived_s = self._parts.clock.monotonic_s() - life.started_s
        _LOG.warning("replica_failed", replica=life.id, reason=reason, lived_s=round(lived_s, 3))
        # One that never got ready was no life, however long it tried: else nothing would ever back off from it.
        self._listener.replica_failed(life, reason, 0.0 if life.state == "starting" else lived_s)

    def _set(self, life: Life) -> None:
        self.lives[life.id] = life
        self._changed()

    def _forget(self, life: Life) -> None:
        del self.lives[life.id]
        self._costs.pop(life.id, None)
        self._notes.pop(life.id, None)
        self.last_token_s.pop(life.id, None)

    # Adoption

    async def adopt(self, published: Snapshot) -> None:
        """Take over replicas that an earlier control started; those it had published go on serving."""
        serving = {
            (replica.id, replica.address, replica.token)
            for entry in published.deployments.values()
            for replica in entry.replicas
        }
        for child in await self._children_at_last():
            if child.exit_code is None:
                self._adopt_one(child, serving)

    async def _children_at_last(self) -> list[Child]:
        while True:
            try:
                return await self._parts.pool.replicas()
            except OutpaceError as error:
                _LOG.warning("pool_out_of_reach", reason=str(error))
                await self._parts.clock.sleep(_POOL_AGAIN_S)

    def _adopt_one(self, child: Child, serving: set[tuple[str, str, str | None]]) -> None:
        try:
            note = msgspec.json.decode(child.note, type=Note)
        except msgspec.DecodeError:
            # The next comparison with the pool stops what is not known.
            return
        address = child.address or note.address
        life = Life(
            id=child.name,
            deployment=note.deployment,
            digest=note.digest,
            state="ready" if (child.name, address, note.token) in serving else "starting",
            address=address,
            machine=child.machine,
            token=note.token,
            pid=child.pid,
            restarts=note.restarts,
            started_at=child.started_at,
            started_s=note.started_s,
            # When its process began is not known; a start that hangs ends by one deadline later.
            placed_s=self._parts.clock.monotonic_s(),
            memory_bytes=note.memory_bytes,
        )
        self._notes[life.id] = note
        self._set(life)
        self._tend(life)
        _LOG.info("replica_adopted", replica=life.id, pid=child.pid, state=life.state)

    # Acting

    async def start(self, replica_id: str, served: Served) -> None:
        """Start a replica of the wanted version; a failure to do so is a failed life."""
        before = self.lives.get(replica_id)
        life = Life(
            id=replica_id,
            deployment=served.id,
            digest=served.digest,
            state="starting",
            address="",
            token=secrets.token_urlsafe(24),
            is_running=False,
            reason=before.reason if before else None,
            restarts=before.restarts + 1 if before else 0,
            started_at=self._parts.clock.wall_s(),
            started_s=self._parts.clock.monotonic_s(),
            memory_bytes=served.require_resolved().replica_bytes,
        )
        self._set(life)
        starting = asyncio.create_task(self._start(served, life), name=replica_id)
        self._starting.add(starting)
        starting.add_done_callback(self._starting.discard)
        # Another machine may take seconds to begin; nobody else shall wait for it.
        await asyncio.wait({starting}, timeout=_START_PATIENCE_S)

    def retire(self, replica_id: str) -> None:
        """Let a replica end after its requests; by now it must be out of the snapshot or never have been in."""
        life = self.lives[replica_id]
        self._end_tending(life.id)
        if not life.is_running:
            if self.fetching(replica_id) is not None:
                # Its weights may take long to come, and nobody waits for them any more.
                for starting in [task for task in self._starting if task.get_name() == replica_id]:
                    starting.cancel()
            self._forget(life)
            return
        retired = turned(life, "unwanted")
        self._set(retired)
        _LOG.info("replica_draining", replica=life.id)
        self._tending[life.id] = asyncio.create_task(self._drain(retired, was_serving=life.state == "ready"))

    def recall(self, replica_id: str) -> None:
        """Let a replica that has not been told to end yet serve again."""
        self._end_tending(replica_id)
        life = turned(self.lives[replica_id], "recalled")
        self._set(life)
        self._tend(life)
        _LOG.info("replica_recalled", replica=replica_id)

    def close(self) -> None:
        """Stop tending; the replicas themselves run on."""
        for task in [*self._tending.values(), *self._starting]:
            task.cancel()

    async def _start(self, served: Served, life: Life) -> None:
        try:
            started = await self._launch(served, life)
        except OutpaceError as error:
            self._start_failed(life, str(error))
            return
        except Exception as error:  # noqa: BLE001 (a loop's edge: one start must not stop the others)
            _LOG.exception("start_crashed", replica=life.id)
            self._start_failed(life, f"starting it failed: {type(error).__name__}")
            return
        if self.lives.get(life.id) is not life:
            # Not wanted any more by now.
            await self._stop(life, 0.0)
            return
        self._set(started)
        self._tend(started)
        _LOG.info("replica_started", replica=life.id, pid=started.pid, restarts=life.restarts)

    def _start_failed(self, life: Life, reason: str) -> None:
        if self.lives.get(life.id) is life:
            self._fail(life, "ended", reason)

    async def _launch(self, served: Served, life: Life) -> Life:
        resolved = served.require_resolved()
        facts = facts_of(served.wanted.spec, resolved, served.wanted.created_at)
        order = LaunchOrder(
            replica_id=life.id,
            deployment=served.wanted.spec.name,
            model=resolved.model,
            artifact_path=resolved.artifact_path,
            artifacts_dir=str(self._parts.home.artifacts),
            tasks=resolved.tasks,
            context_tokens=resolved.context_tokens or 0,
            parallel=resolved.parallel,
            threads=resolved.threads,
            socket_dir=str(self._parts.home.sockets),
            token=life.token,
            engine_settings=settings_of(served.wanted.spec, resolved),
            memory_bytes=life.memory_bytes,
        )
        spec = served.wanted.spec
        require_placeable(spec, has_machines=self._parts.has_machines)
        launch = placed(self._parts.engine(resolved.engine).launch(order), spec.placement, life.memory_bytes)
        note = Note(
            deployment=life.deployment,
            digest=life.digest,
            address=launch.address,
            token=launch.token,
            started_s=life.started_s,
            restarts=life.restarts,
            facts=facts,
            canary=resolved.canary,
            memory_bytes=life.memory_bytes,
        )
        child, started_from = await self._process(life, launch, msgspec.json.encode(note).decode())
        placed_s = self._parts.clock.monotonic_s()
        place_s = placed_s - life.started_s - sum(child.took_s.values())
        self._costs[life.id] = Cost({"place": place_s, **child.took_s}, started_from)
        self._notes[life.id] = note
        return msgspec.structs.replace(
            life,
            address=child.address or launch.address,
            machine=child.machine,
            token=launch.token,
            pid=child.pid,
            is_running=True,
            placed_s=placed_s,
        )

    async def _process(self, life: Life, launch: Launch, note: str) -> tuple[Child, StartedFrom]:
        """The replica's process: one that stands by, or else a new one."""
        standby = self.standbys.take(launch)
        if standby is not None:
            try:
                return await self._parts.pool.hand_over(standby, life.id, launch, note), "imported"
            except OutpaceError as error:
                _LOG.warning("standby_refused", replica=life.id, standby=standby, reason=str(error))
        return await self._parts.pool.start(life.id, launch, note), "nothing"

    async def require_alive(self, replica_id: str) -> None:
        """Before a loaded replica that stood by gets traffic: it answers, or it is ended and counts as hung."""
        from outpace.fleet.probe import Probe

        life = self.lives[replica_id]
        readiness = self._engine_of(life).readiness(self._notes[life.id].facts)
        async with Probe(life.address, life.token) as probe:
            if await probe.is_up(readiness.path, _HAND_OVER_DEADLINE_S):
                return
        self._end_tending(life.id)
        self._fail(life, "hung", "it did not answer when it was to take over")
        self._tending[life.id] = asyncio.create_task(self._stop(life, 0.0))

    async def _drain(self, life: Life, *, was_serving: bool) -> None:
        policy = self._parts.replica_policy
        if was_serving:
            from outpace.fleet.tend import wait_until_idle

            await wait_until_idle(life, self._engine_of(life), policy, self._parts.clock)
        self._set(msgspec.structs.replace(self.lives[life.id], is_ending=True))
        await self._stop(life, policy.stop_grace_s)

    async def _stop(self, life: Life, grace_s: float) -> None:
        while True:
            try:
                await self._parts.pool.stop(life.id, grace_s)
            except OutpaceError as error:
                _LOG.warning("stop_failed", replica=life.id, reason=str(error))
                await self._parts.clock.sleep(_POOL_AGAIN_S)
            else:
                return

    # Tending

    def _tend(self, life: Life) -> None:
        self._end_tending(life.id)
        self._tending[life.id] = asyncio.create_task(self._live(life))

    def _end_tending(self, replica_id: str) -> None:
        task = self._tending.pop(replica_id, None)
        if task is not None:
            task.cancel()

    async def _live(self, life: Life) -> None:
        """Bring it up and watch it; whatever ends this ends the replica."""
        try:
            turn, reason = await self._until_lost(life)
        except Exception as error:  # noqa: BLE001 (a loop's edge: one replica must not stop the others)
            _LOG.exception("tending_crashed", replica=life.id)
            turn, reason = "hung", f"watching it failed: {type(error).__name__}"
        now = self.lives[life.id]
        self._fail(now, "overdue" if now.state == "starting" else turn, reason)
        # It did not answer, so it will not listen either; its requests are lost already.
        await self._stop(life, 0.0)

    async def _until_lost(self, life: Life) -> tuple[Turn, str]:
        # The HTTP client takes a while to import; by now the replica's process is starting beside us.
        from outpace.fleet.tend import watch

        facts = self._notes[life.id].facts
        engine = self._parts.engine(facts.engine)
        readiness = engine.readiness(facts)
        clock = self._parts.clock
        if life.state == "starting":
            problem = await self._bring_up(life, readiness)
            if problem is not None:
                return "overdue", problem
        last_token_s = self._last_token_s
        return "hung", await watch(life, engine, readiness, self._parts.replica_policy, last_token_s, clock)

    async def _bring_up(self, life: Life, readiness: Readiness) -> str | None:
        """Return when it serves as it shall, or the reason why it must not."""
        from outpace.fleet.tend import bring_up

        try:
            cost = self._costs.pop(life.id, None)
            first_token_s = await bring_up(life, readiness, self._parts.clock)
        except OutpaceError as error:
            return str(error)
        took_s = {"first_token": first_token_s}
        if not self._has_canary(life):
            await self._let_serve(life, cost, took_s)
            return None
        if self._answered_lately(life):
            # Another process with these weights and this engine did: callers wait for the start, not for the canary.
            await self._let_serve(life, cost, took_s)
            await self._parts.clock.sleep(self._parts.replica_policy.canary_later_s)
            return await self._canary_miss(life)
        asked_s = self._parts.clock.monotonic_s()
        miss = await self._canary_miss(life)
        if miss is None:
            took_s["canary"] = self._parts.clock.monotonic_s() - asked_s
            await self._let_serve(life, cost, took_s)
        return miss

    async def _let_serve(self, life: Life, cost: Cost | None, took_s: dict[str, float]) -> None:
        self._came_up(life)
        # An adopted replica's start was another control's.
        if cost is not None:
            cost.took_s |= took_s
            await self._write_bill(life.id, cost)

    def _has_canary(self, life: Life) -> bool:
        return self._parts.canary is not None and bool(self._notes[life.id].canary)

    def _answered_lately(self, life: Life) -> bool:
        at_s = self._canaries_s.get((life.digest, self._notes[life.id].canary), _NEVER_S)
        return self._parts.clock.monotonic_s() - at_s < self._parts.replica_policy.canary_fresh_s

    async def _canary_miss(self, life: Life) -> str | None:
        """Why a replica does not answer as its variant did when it was proven; None when it does."""
        name = self._notes[life.id].canary
        assert self._parts.canary is not None, "asked only where there is one"
        version = (life.digest, name)
        try:
            miss = await self._parts.canary(life.address, life.token, name)
        except OutpaceError as error:
            miss = f"the canary could not be asked: {error}"
        if miss is None:
            self._canaries_s[version] = self._parts.clock.monotonic_s()
            return None
        self._canaries_s.pop(version, None)
        _LOG.warning("canary_missed", replica=life.id, reason=miss)
        return miss

    def _came_up(self, life: Life) -> None:
        load_s = self._parts.clock.monotonic_s() - life.started_s
        ready = turned(self.lives[life.id], "answered")
        self._set(
            msgspec.structs.replace(ready, ready_at=self._parts.clock.wall_s(), load_s=load_s, reason=None)
        )
        self._listener.replica_ready(life, load_s)
        _LOG.info("replica_ready", replica=life.id, load_s=round(load_s, 3))

    async def _write_bill(self, replica_id: str, cost: Cost) -> None:
        """Put the start's bill into the deployment's history."""
        life = self.lives[replica_id]
        assert life.load_s is not None, "written when it came up"
        try:
            told = next(child.told for child in await self._parts.pool.replicas() if child.name == life.id)
            phases = phases_told(told) | cost.took_s
            bill = start_bill(life.id, life.started_at, life.load_s, phases, cost.started_from)
            self.history.add(life.deployment, bill)
        except (OutpaceError, OSError, StopIteration) as error:
            _LOG.warning("start_bill_lost", replica=life.id, reason=str(error))

    def _last_token_s(self, replica_id: str) -> float:
        return self.last_token_s.get(replica_id, _NEVER_S)

    def _engine_of(self, life: Life) -> Engine:
        return self._parts.engine(self._notes[life.id].facts.engine)
