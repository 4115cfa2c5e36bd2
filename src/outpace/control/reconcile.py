"""The reconcile loop: take in what happened, decide, act, publish."""

import asyncio
from collections.abc import Callable, Container, Mapping, Sequence

import msgspec
import structlog

from outpace.control.admission import Holding, Tenant, admit
from outpace.control.assembly import Publisher, external_entries, facts_of, launched_entries
from outpace.control.companions import Companions, companion_id, owner_of
from outpace.control.decide import (
    Recall,
    Retire,
    Standing,
    Start,
    decide,
    deployment_state,
    routed,
    shown_digest,
)
from outpace.control.keys import Key
from outpace.control.parts import ControlParts
from outpace.control.replicas import Replicas
from outpace.control.scaler import Scaler
from outpace.control.served import Served, expected_s
from outpace.control.specs import same_version
from outpace.control.standbys import Ahead, together
from outpace.control.store import Wanted
from outpace.control.warmth import Warmth, weights_to_cache
from outpace.fleet.replicas import Life
from outpace.values.deployment import DeploymentState
from outpace.values.errors import OutpaceError
from outpace.values.signals import Demand
from outpace.values.snapshot import DeploymentEntry

_LOG = structlog.get_logger()
_TICK_S = 0.25
# The pool's list is the truth; ends that were told are only faster.
_LIST_EVERY_S = 5.0
# After a start, how long the old snapshot may stand while models are looked up.
_FIRST_LOOK_UP_S = 3.0


class Reconciler:
    """What is wanted, what runs, and the loop between them; everything happens on one event loop."""

    def __init__(
        self,
        parts: ControlParts,
        count_failure: Callable[[str], None],
        announce: Callable[[int], None] = lambda version: None,
    ) -> None:
        self._parts = parts
        self._wake = asyncio.Event()
        self._publisher = Publisher(parts.home, parts.clock)
        self.served: dict[str, Served] = {}
        self.replicas = Replicas(parts, self, self._wake.set)
        self.keys: Sequence[Key] = ()
        self.scaler = Scaler(parts.clock)
        self.companions = Companions(parts)
        self._count_failure = count_failure
        self._announce = announce
        self._listed_s = float("-inf")
        self.warmth = Warmth(parts.clock)
        # Why starts found no memory, by deployment.
        self._refused: Mapping[str, str] = {}
        # Ready replicas that get no traffic.
        self._idle: set[str] = set()
        # Monotonic second of the last time that a deployment got a replica to serve with.
        self._served_since_s: dict[str, float] = {}
        self._started_s = parts.clock.monotonic_s()

    # What others tell it

    def want(self, wanted: Wanted, at_least: int = 1) -> None:
        """A deployment is wanted, for the first time, changed, or once more.

        One that may sleep comes up with `at_least` replicas, so that a person who deploys it sees it work.
        """
        name = wanted.spec.name
        self.scaler.want(wanted, at_least)
        self.companions.want(wanted)
        if name in self.served:
            self.served[name].want(wanted)
        else:
            self.served[name] = Served(wanted, self._parts, self._wake.set)
            for variant in self._parts_of(name):
                for bill in self.replicas.history.of(variant.id):
                    variant.remember_load(bill.total_s)
        self._wake.set()

    def unwant(self, name: str) -> None:
        """A deployment is not wanted any more; its replicas end after their requests."""
        for variant in self._parts_of(name):
            self.replicas.history.forget(variant.id)
        self.scaler.forget(name)
        self.companions.forget(name)
        self._served_since_s.pop(name, None)
        served = self.served.pop(name, None)
        if served is not None:
            served.close()
        self._wake.set()

    def set_keys(self, keys: Sequence[Key]) -> None:
        """These are all keys now."""
        self.keys = tuple(keys)
        self._wake.set()

    def sleep(self, name: str) -> None:
        """A person lets a deployment sleep until the next request."""
        self.scaler.sleep(name, "put to sleep by `outpace scale`; the next request wakes it")
        self._wake.set()

    def take_demand(self, demand: Demand) -> None:
        """A gateway worker told what it has to do; somebody who waits for a sleeping model is not kept waiting."""
        if self.scaler.take(demand):
            self._wake.set()

    def replica_ready(self, life: Life, load_s: float) -> None:
        """A replica gave its first token."""
        served = self._served_by(life)
        if served is not None:
            served.came_up(load_s)
            name = owner_of(life.deployment)
            self._served_since_s[name] = self._parts.clock.monotonic_s()
            self.scaler.touch(name, self._parts.clock.monotonic_s())

    def replica_failed(self, life: Life, reason: str, lived_s: float) -> None:
        """A replica ended unasked, hung, or did not come up."""
        self._count_failure(owner_of(life.deployment))
        served = self._served_by(life)
        if served is not None:
            served.start_failed(reason, lived_s)
            if life.state == "starting" and not served.is_companion:
                self._tell_failed_start(life.deployment, served.retry_s)

    def _tell_failed_start(self, name: str, retry_s: float | None) -> None:
        """Whoever waits for a sleeper is told why; where others serve, they serve on."""
        if not any(life.state == "ready" for life in self.lives_of(name)):
            self.scaler.start_failed(name, retry_s)

    def _served_by(self, life: Life) -> Served | None:
        served = self.served.get(life.deployment) or self.companions.served.get(life.deployment)
        return served if served is not None and served.digest == life.digest else None

    # The loop

    async def run(self) -> None:
        """Adopt what runs, then make what runs what is wanted, until cancelled."""
        collecting = asyncio.create_task(self.replicas.collect_ends())
        try:
            await self.replicas.adopt(self._publisher.last)
            self._keep_adopted()
            while True:
                self._wake.clear()
                await self._tick_safely()
                await self._next_tick()
        finally:
            collecting.cancel()
            self.replicas.close()
            self.warmth.close()

    async def tick(self) -> None:
        """One turn: facts in, decision, actions, snapshot."""
        self.replicas.take_ends()
        await self._compare_when_due()
        for served in self.served.values():
            served.resolve_when_due()
            served.reconsider_when_due()
        self._scale()
        await self._hand_over()
        actions = decide(self._standings(), list(self.replicas.lives.values()))
        retiring = {action.replica_id for action in actions if isinstance(action, Retire)}
        for start in self._admitted([action for action in actions if isinstance(action, Start)], retiring):
            await self.replicas.start(start.replica_id, self.launched()[start.deployment])
        for recall in [action for action in actions if isinstance(action, Recall)]:
            self.replicas.recall(recall.replica_id)
        # Out of the snapshot first, so that no new request comes while the running ones end.
        self.publish(without=retiring)
        for replica_id in retiring:
            self.replicas.retire(replica_id)
        await self._keep_standbys()
        self.warmth.keep(weights_to_cache(self.launched().values()))

    def _admitted(self, starts: list[Start], retiring: set[str]) -> Sequence[Start]:
        """The starts that there is memory for; others make room for the rest from the next turn on."""
        admission = admit(starts, self._holdings(retiring), self._tenants(), self._parts.memory_bytes)
        for name in admission.evict:
            self._give_room(name)
            self._wake.set()
        for name, reason in admission.refused.items():
            if name not in self._refused:
                _LOG.warning("start_refused", deployment=name, reason=reason)
            if name in self.companions.served:
                self.companions.give_room(name, f"no room: {reason}")
                continue
            # What must run is tried again with every turn.
            self._tell_failed_start(name, None)
        # Told for as long as a sleeper's callers are turned away.
        told = {name: words for name, words in self._refused.items() if self._is_held(name)}
        self._refused = {**told, **admission.refused}
        return admission.starts

    def _give_room(self, name: str) -> None:
        (self.companions if name in self.companions.served else self.scaler).give_room(name)

    def _is_held(self, name: str) -> bool:
        return name in self.served and self.scaler.is_held(name)

    def _holdings(self, retiring: set[str]) -> list[Holding]:
        now_s = self._parts.clock.monotonic_s()
        return [
            Holding(
                deployment=life.deployment,
                memory_bytes=life.memory_bytes,
                is_leaving=life.state == "draining" or life.id in retiring,
                up_for_s=now_s - life.started_s,
            )
            for life in self.replicas.lives.values()
            if life.is_running
        ]

    def _tenants(self) -> dict[str, Tenant]:
        now_s = self._parts.clock.monotonic_s()
        tenants = {}
        for name, served in self.launched().items():
            owner = served.wanted.spec.name
            pressure = self.scaler.pressure(owner, now_s)
            tenants[name] = Tenant(
                replica_bytes=served.resolved.replica_bytes if served.resolved else 0,
                spare=self.desired(served) if served.is_companion else self.scaler.spare(owner),
                is_busy=pressure.waiting + pressure.running > 0,
                idle_for_s=pressure.idle_for_s,
                is_companion=served.is_companion,
            )
        return tenants

    async def _hand_over(self) -> None:
        """Those that stood by and are to get traffic now must answer first."""
        routed = {life.id for served in self.launched().values() for life in self._routed(served)}
        taking_over = routed & self._idle
        await asyncio.gather(*(self.replicas.require_alive(idle) for idle in taking_over))
        for idle in taking_over:
            name = owner_of(self.replicas.lives[idle].deployment)
            self._served_since_s[name] = self._parts.clock.monotonic_s()
        ready = {life.id for life in self.replicas.lives.values() if life.state == "ready"}
        self._idle = ready - routed

    async def _keep_standbys(self) -> None:
        """Engines imported ahead; while replicas start or have just begun, a refill would only slow them down."""
        if self.replicas.is_starting() or not all(self._may_refill(name) for name in self.served):
            return
        wishes = [
            (self._standby_module(served), Ahead(imported, self._memory_ahead(served)))
            for served in self.launched().values()
            if (imported := served.wanted.spec.replicas.stands_by.imported)
            and served.is_here
            and not served.is_companion
        ]
        standbys = self.replicas.standbys
        wanted = standbys.within(self._room_bytes(), together(wishes))
        await standbys.keep(wanted, self._parts.replica_policy.stop_grace_s)

    def _standby_module(self, served: Served) -> str:
        if not served.is_here:
            return ""
        return self._parts.engine(served.require_resolved().engine).capabilities.standby_module

    def _memory_ahead(self, served: Served) -> int:
        """What a process that becomes this deployment's replica allocates at once."""
        resolved = served.require_resolved()
        is_useful = self._parts.engine(resolved.engine).capabilities.standby_takes_memory
        return resolved.replica_bytes if is_useful else 0

    def _room_bytes(self) -> int:
        """Memory that no replica has; other machines' is not ours to reckon with."""
        held_bytes = sum(life.memory_bytes for life in self.replicas.lives.values())
        return 0 if self._parts.memory_bytes is None else self._parts.memory_bytes - held_bytes

    def num_imported(self, served: Served) -> int:
        """Processes that stand by with this deployment's engine imported."""
        return self.replicas.standbys.counts().get(self._standby_module(served), 0)

    async def _tick_safely(self) -> None:
        try:
            await self.tick()
        except (OutpaceError, OSError) as error:
            _LOG.warning("tick_failed", reason=str(error))
        except Exception:  # noqa: BLE001 (a loop's tick)
            _LOG.exception("tick_crashed")

    async def _next_tick(self) -> None:
        woken = asyncio.create_task(self._wake.wait())
        slept = asyncio.create_task(self._parts.clock.sleep(_TICK_S))
        try:
            await asyncio.wait({woken, slept}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
            slept.cancel()

    async def _compare_when_due(self) -> None:
        now_s = self._parts.clock.monotonic_s()
        if now_s - self._listed_s < _LIST_EVERY_S:
            return
        await self.replicas.compare_with_pool()
        self._listed_s = now_s

    def _standings(self) -> dict[str, Standing]:
        now_s = self._parts.clock.monotonic_s()
        return {name: self._standing(served, now_s) for name, served in self.launched().items()}

    def _standing(self, served: Served, now_s: float) -> Standing:
        standing = served.standing(self.desired(served), now_s)
        return msgspec.structs.replace(standing, refills=self._may_refill(served.wanted.spec.name))

    def desired(self, served: Served) -> int:
        """Replicas of a variant to keep now."""
        name = served.wanted.spec.name
        companion = self.companions.of(name)
        if companion is not None and served is companion.served:
            return companion.desired
        return self.scaler[name].desired

    def _may_refill(self, name: str) -> bool:
        since_s = self._served_since_s.get(name, float("-inf"))
        return self._parts.clock.monotonic_s() - since_s >= self._parts.replica_policy.refill_after_s

    def launched(self) -> dict[str, Served]:
        """What has replicas of ours, second variants under ids of their own."""
        main = {name: served for name, served in self.served.items() if not served.is_external}
        return {**main, **self.companions.served}

    def now_s(self) -> float:
        """Monotonic."""
        return self._parts.clock.monotonic_s()

    def lives_of(self, name: str) -> list[Life]:
        """The replicas of a deployment, those of its second variant last."""
        return [*self.replicas.of(name), *self.replicas.of(companion_id(name))]

    def learner(self, name: str, engine: str, began_at_s: float) -> Served | None:
        """The main variant, if an answer of `engine` since then (wall clock) shows what it does alone.

        While a companion is there both share the processor, and neither is as fast as its profile says.
        """
        companion, main = self.companions.of(name), self.served.get(name)
        if companion is not None and (
            self.replicas.of(companion.served.id) or companion.was_there(began_at_s)
        ):
            return None
        return main if main and main.resolved and main.resolved.engine == engine else None

    def _parts_of(self, name: str) -> list[Served]:
        """A deployment's variants, the main one first."""
        companion = self.companions.of(name)
        main = [self.served[name]] if name in self.served else []
        return main if companion is None else [*main, companion.served]

    def _scale(self) -> None:
        """Let the scaler decide again; tokens that clients got, and starts under way, are signs of use."""
        now_s = self._parts.clock.monotonic_s()
        for served in self.launched().values():
            for life in self.replicas.of(served.id):
                used_s = now_s if life.state == "starting" else self.replicas.last_token_s.get(life.id)
                if used_s is not None:
                    self.scaler.touch(served.wanted.spec.name, used_s)
        for name, served in self.served.items():
            if not served.is_external:
                self._scale_one(name, served, now_s)

    def _scale_one(self, name: str, served: Served, now_s: float) -> None:
        num_ready = self.num_ready(served)
        companion = self.companions.of(name)
        helper = companion.served.capacity if companion and self.num_ready(companion.served) else None
        capacity = msgspec.structs.replace(served.capacity, helper=helper)
        desired = self.scaler.step(name, capacity, num_ready, served.expected_load_s)
        pressure = self.scaler.pressure(name, now_s)
        self.companions.step(served, pressure, is_wanted=desired > 0, num_ready=num_ready)

    def num_ready(self, served: Served) -> int:
        """Replicas of a variant that answer."""
        return sum(life.state == "ready" for life in self.replicas.of(served.id))

    def _keep_adopted(self) -> None:
        """What an earlier control had running is not put to sleep by this one's start."""
        for name, served in self.launched().items():
            running = [life for life in self.replicas.of(name) if life.state in ("ready", "starting")]
            if served.is_companion:
                if running:
                    self.companions.keep_adopted(served.wanted.spec.name)
                continue
            serving = len(running) - served.wanted.spec.replicas.stands_by.loaded
            if serving > 0:
                self.scaler.want(served.wanted, at_least=serving)

    # The snapshot

    def publish(self, without: frozenset[str] | set[str] = frozenset()) -> None:
        """Write the snapshot, unless the start is so young that it would say less than the one there is."""
        is_young = self._parts.clock.monotonic_s() - self._started_s < _FIRST_LOOK_UP_S
        if is_young and not all(served.is_looked_up for served in self.served.values()):
            return
        entries = {name: self.entry(served, without) for name, served in self.served.items()}
        if self._publisher.publish(self.keys, entries):
            self._announce(self._publisher.last.version)
            _LOG.info("snapshot_written", version=self._publisher.last.version)

    def entry(self, served: Served, without: frozenset[str] | set[str] = frozenset()) -> DeploymentEntry:
        """A deployment as the gateway shall see it now."""
        if served.is_external:
            return self._external_entry(served)
        own = self._own(served, without)
        now_s = self._parts.clock.monotonic_s()
        digest = shown_digest(self._standing(served, now_s), own)
        facts = self._facts(served, digest)
        replicas = launched_entries(self._routed(served, without), digest, facts)
        second = self._second(served, digest, without)
        if second is not None:
            facts = msgspec.structs.replace(facts, variants=(*facts.variants, *second.variants))
            replicas += second.replicas
        starting_s = [life.started_s for life in own if life.state == "starting"]
        return msgspec.structs.replace(
            facts,
            state=self._state(served, len(replicas)),
            reason=None if replicas else self.problem(served),
            price=served.wanted.spec.price,
            replicas=replicas,
            ready_in_s=None if replicas else expected_s(served, now_s, min(starting_s, default=now_s)),
            wakes=self.scaler[served.wanted.spec.name].may_sleep,
        )

    def _second(self, main: Served, digest: str | None, without: Container[str]) -> DeploymentEntry | None:
        """The companion's part of an entry whose main variant is shown at `digest`: of the same spec, or none."""
        companion = self.companions.of(main.wanted.spec.name)
        if companion is None:
            return None
        served = companion.served
        own = self._own(served, without)
        shown = shown_digest(self._standing(served, self._parts.clock.monotonic_s()), own)
        if not same_version(shown, digest) or not (own or served.is_here):
            return None
        facts = self._facts(served, shown)
        return msgspec.structs.replace(
            facts, replicas=launched_entries(self._routed(served, without), shown, facts)
        )

    def _own(self, served: Served, without: Container[str] = ()) -> list[Life]:
        return [life for life in self.replicas.of(served.id) if life.id not in without]

    def _routed(self, served: Served, without: Container[str] = ()) -> list[Life]:
        own = self._own(served, without)
        standing = self._standing(served, self._parts.clock.monotonic_s())
        return routed(standing, own, shown_digest(standing, own))

    def is_idle(self, replica_id: str) -> bool:
        """It is loaded and stands by."""
        return replica_id in self._idle

    def state_of(self, served: Served) -> DeploymentState:
        """The state of one variant, by its own replicas."""
        return self._state(served, len(self._routed(served)))

    def _state(self, served: Served, num_ready: int) -> DeploymentState:
        name = served.wanted.spec.name
        is_asleep = served.is_here and self.desired(served) == 0
        # A sleeper is tried again with the next request, whatever became of earlier starts, but not in haste.
        is_held = self.scaler.is_held(name) and not served.is_companion
        is_given_up = is_held if is_asleep else served.is_given_up
        return deployment_state(num_ready, is_given_up=is_given_up, is_asleep=is_asleep)

    def _external_entry(self, served: Served) -> DeploymentEntry:
        problem = self.problem(served)
        is_ready = problem is None and served.resolved is not None
        state = deployment_state(int(is_ready), is_given_up=problem is not None)
        return msgspec.structs.replace(
            facts_of(served.wanted.spec, served.resolved, served.wanted.created_at),
            state=state,
            reason=problem,
            replicas=external_entries(served.wanted.spec) if is_ready else (),
        )

    def problem(self, served: Served) -> str | None:
        """Why a deployment does not serve, or not with all its replicas."""
        external = served.wanted.spec.external
        variable = external.api_key_env if external else None
        if variable and self._parts.secret(variable) is None:
            return f"the environment variable {variable} is not set where `outpace up` was started"
        name = served.wanted.spec.name
        return self._refused.get(name) or served.reason

    def _facts(self, served: Served, digest: str | None) -> DeploymentEntry:
        """Of the version that is shown; what its replicas were started with, where nothing newer is known."""
        is_known = served.resolved is not None and digest == served.digest
        noted = None if is_known or digest is None else self.replicas.facts(digest)
        return noted or facts_of(served.wanted.spec, served.resolved, served.wanted.created_at)
