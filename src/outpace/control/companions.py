"""Companions at run time: each deployment's second variant, and the one writer of whether it is there."""

import msgspec
import structlog

from outpace.control.decide import Standing
from outpace.control.parts import ControlParts, Resolved
from outpace.control.served import Served
from outpace.control.specs import same_spec
from outpace.control.store import Wanted
from outpace.scheduling.autoscale import Pressure
from outpace.scheduling.companions import MADE_ROOM_S, Edges, History, Sight, decide, is_small, left
from outpace.scheduling.variants import Mix, Option, cross_over, mix_of
from outpace.values.clock import Clock

_LOG = structlog.get_logger()
# Names of deployments hold no @.
_MARK = "@companion"


def companion_id(name: str) -> str:
    """Under which the replicas of a deployment's companion are kept."""
    return name + _MARK


def owner_of(replicas_of: str) -> str:
    """The deployment that replicas under this id belong to."""
    return replicas_of.removesuffix(_MARK)


class Companion(msgspec.Struct, kw_only=True):
    """One deployment's second variant."""

    served: Served
    history: History = History()
    # By the last profiles that both variants had: a new version of one is measured only when nobody asks.
    edges: Edges | None = None
    reason: str = ""
    changed_at: float

    @property
    def desired(self) -> int:
        """Replicas to keep now."""
        return int(self.history.is_up)

    def was_there(self, since_s: float) -> bool:
        """It is wanted now, or was since then (wall clock)."""
        return self.history.is_up or since_s < self.changed_at


class Companions:
    """Second variants by deployment; lives on control's loop."""

    def __init__(self, parts: ControlParts) -> None:
        self._parts = parts
        self._clock: Clock = parts.clock
        self._all: dict[str, Companion] = {}
        # By their own ids, as others look replicas up.
        self.served: dict[str, Served] = {}

    def of(self, name: str) -> Companion | None:
        """A deployment's companion, there or not; None for external ones."""
        return self._all.get(name)

    def want(self, wanted: Wanted) -> None:
        """Take over a wish. One of another spec goes at once: it must not answer for the new one."""
        name = wanted.spec.name
        if wanted.spec.external is not None:
            self.forget(name)
            return
        known = self._all.get(name)
        if known is None:
            served = Served(wanted, self._parts, lambda: None, id=companion_id(name))
            self._all[name] = Companion(served=served, changed_at=self._clock.wall_s())
            self.served[served.id] = served
            return
        is_same = same_spec(known.served.wanted.spec, wanted.spec)
        known.served.want(wanted)
        if is_same:
            return
        known.edges = None
        if known.history.is_up:
            self._set(
                known, left(known.history, self._clock.monotonic_s(), 0.0), "the deployment has changed"
            )

    def forget(self, name: str) -> None:
        """A deployment is not wanted any more."""
        known = self._all.pop(name, None)
        if known is not None:
            del self.served[known.served.id]

    def keep_adopted(self, name: str) -> None:
        """An earlier control had it running."""
        known = self._all[name]
        self._set(known, msgspec.structs.replace(known.history, is_up=True), "it was there before")

    def step(self, main: Served, pressure: Pressure, *, is_wanted: bool, num_ready: int) -> None:
        """Decide again: `num_ready` replicas of the main variant answer, and `is_wanted` that any shall."""
        known = self._all.get(main.id)
        if known is None or main.resolved is None:
            # What runs goes on until more is known.
            return
        self._follow(known, main.resolved.companion)
        if main.resolved.profile is not None and known.served.capacity.speeds:
            known.edges = edges(main, known.served, max(1, num_ready), pressure)
        resolved = known.served.resolved
        sight = Sight(
            users=pressure.waiting + pressure.running,
            edges=known.edges,
            is_possible=is_wanted and known.served.is_here,
            is_main_ready=num_ready > 0,
            start_s=known.served.expected_load_s,
            is_small=is_small(resolved.replica_bytes if resolved else 0, self._parts.memory_bytes),
        )
        decision = decide(known.history, sight, self._clock.monotonic_s())
        self._set(known, decision.history, decision.reason)

    def give_room(self, replicas_of: str, reason: str = "made room: others needed the memory") -> None:
        """It leaves, or does not come, because there is no memory for it; for a while it is not tried again."""
        known = self._all[owner_of(replicas_of)]
        self._set(known, left(known.history, self._clock.monotonic_s(), MADE_ROOM_S), reason)

    def standings(self) -> dict[str, Standing]:
        """What the decision about replicas needs to know of each."""
        now_s = self._clock.monotonic_s()
        return {known.served.id: known.served.standing(known.desired, now_s) for known in self._all.values()}

    def _follow(self, known: Companion, fresh: Resolved | None) -> None:
        before = known.served.resolved
        is_unmeasured = fresh is not None and fresh.profile is None
        if known.history.is_up and is_unmeasured and before is not None and before.profile is not None:
            # The gateway would not send anything to it; it is changed, and then measured, when it is not needed.
            return
        known.served.follow(fresh)

    def _set(self, known: Companion, history: History, reason: str) -> None:
        if history.is_up != known.history.is_up:
            known.reason, known.changed_at = reason, self._clock.wall_s()
            name = known.served.wanted.spec.name
            _LOG.info("companion_scaled", deployment=name, count=int(history.is_up), reason=reason)
        known.history = history


def edges(main: Served, companion: Served, num_main: int, pressure: Pressure) -> Edges | None:
    """Between which loads which of two variants is faster, by their profiles and by what requests are like."""
    one, two, mix = option_of(main, num_main), option_of(companion, 1), mix_seen(pressure)
    up, down = cross_over(one, two, mix=mix), cross_over(one, two, gain=1.0, mix=mix)
    return None if up is None or down is None else Edges(up=up, down=down)


def mix_seen(pressure: Pressure) -> Mix:
    """What a deployment's requests have been like lately."""
    return mix_of(pressure.traffic.input_tokens, pressure.traffic.output_tokens)


def option_of(served: Served, num_replicas: int) -> Option:
    """A variant as the choice between variants sees it."""
    known = served.capacity
    return Option(
        served.id,
        num_replicas,
        known.speeds,
        known.prefill_tokens_per_s,
        known.read_per_output,
        known.guess_gains,
    )
