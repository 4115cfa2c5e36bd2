"""One deployment at run time: what is wanted, what is known of its model, and what went wrong lately."""

import asyncio
import math
import statistics
from collections import deque
from collections.abc import Callable

import structlog

from outpace.control.assembly import ALL_TASKS, gains_of
from outpace.control.decide import Standing
from outpace.control.parts import ControlParts, Resolved
from outpace.control.specs import VARIANT, digest
from outpace.control.store import Wanted
from outpace.control.threads import in_thread
from outpace.fleet.restarts import (
    NO_FAILURES,
    Failures,
    RestartPolicy,
    after_failure,
    is_open,
    next_start_s,
)
from outpace.scheduling.attainment import Capacity
from outpace.scheduling.profiles import variant_figures
from outpace.values.errors import OutpaceError

_LOG = structlog.get_logger()
_MB = 10**6
# A model that cannot be found or pulled is tried again, but never in haste.
_CONSIDER_EVERY_S = 5.0
_LOADS_KEPT = 5
_LOAD_GUESS_S = 10.0
_RESOLVE_AGAIN = RestartPolicy(first_wait_s=5.0, longest_wait_s=300.0, retry_open_s=300.0)


class Served:
    """Run-time state of a wanted deployment; its methods run on control's loop."""

    def __init__(
        self, wanted: Wanted, parts: ControlParts, changed: Callable[[], None], id: str | None = None
    ) -> None:
        self._parts = parts
        # Of its replicas; a companion is not found by the deployment's name.
        self.id = id or wanted.spec.name
        self.wanted = wanted
        self.digest = digest(wanted.spec)
        self.resolved: Resolved | None = None
        self.problem: str | None = None
        self.failures: Failures = NO_FAILURES
        # Of the last replicas that came up: what a user may expect of the next.
        self._loads_s: deque[float] = deque(maxlen=_LOADS_KEPT)
        self._pulled: tuple[int, int | None] | None = None
        self._resolve_failures = NO_FAILURES
        self._resolving: asyncio.Task[None] | None = None
        self._changed = changed
        self._considered_s = parts.clock.monotonic_s()
        self._take_over_external()

    def want(self, wanted: Wanted) -> None:
        """Take over a changed wish; asking again closes an open breaker."""
        if wanted.spec != self.wanted.spec:
            self._considered_s = float("-inf")
        self.wanted = wanted
        self.failures = NO_FAILURES
        self._resolve_failures = NO_FAILURES
        self.problem = None
        fresh = digest(wanted.spec)
        if fresh != self.digest.partition(VARIANT)[0]:
            self.digest = fresh
            self.resolved = None
            self.close()
            self._take_over_external()

    def close(self) -> None:
        """Give up looking the model up; a pull under way goes on in its thread and ends by itself."""
        if self._resolving is not None:
            self._resolving.cancel()
            self._resolving = None

    @property
    def is_companion(self) -> bool:
        """It is a deployment's second variant."""
        return self.id != self.wanted.spec.name

    def follow(self, resolved: Resolved | None) -> None:
        """Be what the main variant's look-up found; None: nothing is known of it now."""
        if resolved is None:
            self.resolved = None
        elif resolved != self.resolved:
            self._take_over(resolved)

    @property
    def is_external(self) -> bool:
        """It is reached by URL; nothing is started for it."""
        return self.wanted.spec.external is not None

    def require_resolved(self) -> Resolved:
        """What is known of the model; only for deployments whose standing says that they may start."""
        assert self.resolved is not None, "a deployment starts only when its model is known"
        return self.resolved

    def _take_over_external(self) -> None:
        """An external API is known by its spec alone."""
        external = self.wanted.spec.external
        if external is not None:
            self.resolved = Resolved(
                engine="external",
                model=external.model,
                engine_model=external.model,
                owned_by="external",
                precision="none",
                tasks=ALL_TASKS,
            )

    @property
    def is_here(self) -> bool:
        """The model is known and its weights are on this machine."""
        return self.resolved is not None and not self.resolved.needs_pull

    @property
    def is_looked_up(self) -> bool:
        """The first look-up has ended, well or not."""
        return self.resolved is not None or self.problem is not None

    def standing(self, desired: int, now_s: float) -> Standing:
        """What the decision needs to know, with the count that the scaler has set."""
        start_s = self.retry_s
        return Standing(
            name=self.id,
            digest=self.digest,
            desired=desired,
            loaded=0 if self.is_companion else self.wanted.spec.replicas.stands_by.loaded,
            may_start=self.is_here and start_s is not None and now_s >= start_s,
        )

    @property
    def is_given_up(self) -> bool:
        """Nothing more happens soon by itself: the breaker is open, or the model is not to be had."""
        is_missing = not self.is_here and self._resolve_failures.in_a_row > 0
        return is_missing or is_open(self.failures, self._parts.restart_policy)

    @property
    def reason(self) -> str | None:
        """What a user should know when the deployment does not serve."""
        if self._pulled is not None:
            return _pull_words(*self._pulled)
        if is_open(self.failures, self._parts.restart_policy):
            again = "it is tried again by itself; `outpace scale` tries at once"
            return f"{self.failures.in_a_row} starts in a row failed, {again}; the last one: {self.problem}"
        return self.problem

    def start_failed(self, reason: str, lived_s: float) -> None:
        """A replica ended unasked, hung, or did not come up."""
        self.problem = reason
        now_s = self._parts.clock.monotonic_s()
        self.failures = after_failure(self.failures, self._parts.restart_policy, lived_s, now_s)

    def came_up(self, load_s: float) -> None:
        """A replica is ready."""
        self.problem = None
        self.remember_load(load_s)

    def remember_load(self, load_s: float) -> None:
        """A start took so long; also one that an earlier control saw."""
        self._loads_s.append(load_s)

    @property
    def typical_load_s(self) -> float | None:
        """From start to first token, as measured lately; None before the first start."""
        return statistics.median(self._loads_s) if self._loads_s else None

    @property
    def expected_load_s(self) -> float:
        """What to reckon with for a start: as measured here, by the profile, or a guess."""
        profile = self.resolved.profile if self.resolved else None
        return self.typical_load_s or (profile.load_s if profile else _LOAD_GUESS_S)

    @property
    def capacity(self) -> Capacity:
        """What one replica does, by its profile."""
        resolved = self.resolved
        if resolved is None:
            return Capacity(places=1)
        figures = variant_figures(resolved.profile, resolved.parallel)
        return Capacity(
            places=resolved.parallel,
            speeds=figures.speeds,
            prefill_tokens_per_s=figures.prefill_tokens_per_s,
            read_per_output=figures.read_per_output,
            guess_gains=gains_of(resolved),
        )

    @property
    def retry_s(self) -> float | None:
        """Monotonic second from which the next start is allowed; None: not without a person."""
        return next_start_s(self.failures, self._parts.restart_policy)

    def resolve_when_due(self) -> None:
        """Start looking the model up, and bringing its weights, when that is to be done now."""
        if self.is_here or self._resolving is not None:
            return
        due_s = next_start_s(self._resolve_failures, _RESOLVE_AGAIN)
        if due_s is not None and self._parts.clock.monotonic_s() >= due_s:
            self._resolving = asyncio.create_task(self._resolve())

    def reconsider_when_due(self) -> None:
        """Ask again what to serve: a verdict may have come since. Another artifact is another version."""
        now_s = self._parts.clock.monotonic_s()
        if self.is_external or not self.is_here or self._resolving is not None:
            return
        if now_s - self._considered_s >= _CONSIDER_EVERY_S:
            self._considered_s = now_s
            self._resolving = asyncio.create_task(self._reconsider())

    async def _reconsider(self) -> None:
        spec = self.wanted.spec
        try:
            fresh = await in_thread(self._parts.resolve, spec)
            if not fresh.needs_pull and self.resolved is not None and fresh != self.resolved:
                if fresh.variant != self.resolved.variant:
                    _LOG.info("precision_switched", deployment=spec.name, precision=fresh.precision)
                # Also where only the reason or the proof is new: status and receipts tell them.
                self._take_over(fresh)
                self._changed()
        except Exception as error:  # noqa: BLE001 (a tick's edge: what serves goes on serving)
            _LOG.warning("reconsider_failed", deployment=spec.name, reason=str(error))
        finally:
            if self._resolving is asyncio.current_task():
                self._resolving = None

    def _take_over(self, resolved: Resolved) -> None:
        self.resolved = resolved
        own = digest(self.wanted.spec)
        self.digest = f"{own}{VARIANT}{resolved.variant}" if resolved.variant else own

    async def _resolve(self) -> None:
        spec = self.wanted.spec
        try:
            self.resolved = await in_thread(self._parts.resolve, spec)
            if self.resolved.needs_pull:
                _LOG.info("pull_started", deployment=spec.name)
                self._pulled = (0, None)
                await in_thread(self._parts.pull, spec, self._progressed)
                self.resolved = await in_thread(self._parts.resolve, spec)
            if self.resolved.needs_pull:
                self._unresolved("the weights are still missing after they were pulled")
                return
            self._take_over(self.resolved)
            self.problem = None
        except OutpaceError as error:
            self._unresolved(str(error))
        except Exception as error:  # noqa: BLE001 (a tick's edge: one deployment must not stop the others)
            _LOG.exception("resolve_crashed", deployment=spec.name)
            self._unresolved(f"looking the model up failed: {type(error).__name__}: {error}")
        finally:
            self._pulled = None
            if self._resolving is asyncio.current_task():
                self._resolving = None
            self._changed()

    def _unresolved(self, reason: str) -> None:
        now_s = self._parts.clock.monotonic_s()
        self._resolve_failures = after_failure(self._resolve_failures, _RESOLVE_AGAIN, 0.0, now_s)
        self.problem = reason
        _LOG.warning("resolve_failed", deployment=self.wanted.spec.name, reason=reason)

    def _progressed(self, done_bytes: int, total_bytes: int | None) -> None:
        # Called from the pulling thread; one assignment needs no lock.
        self._pulled = (done_bytes, total_bytes)


def expected_s(served: Served, now_s: float, started_s: float) -> float | None:
    """Seconds until a starting replica is likely to answer, from the last time one did."""
    load_s = served.typical_load_s
    if load_s is None:
        return None
    # In whole seconds: each change of it is a new snapshot.
    return float(max(1, math.ceil(load_s - (now_s - started_s))))


def _pull_words(done_bytes: int, total_bytes: int | None) -> str:
    if not total_bytes:
        return f"pulling the weights: {done_bytes // _MB} MB so far"
    percent = 100 * done_bytes // total_bytes
    return f"pulling the weights: {percent} % of {total_bytes // _MB} MB"
