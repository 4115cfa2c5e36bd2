"""The life of a replica: its states, what moves it between them, and when its pulse is lost. Pure."""

from typing import Literal

import msgspec

from outpace.engines.protocol import Load
from outpace.values.deployment import ReplicaState

Turn = Literal["answered", "overdue", "hung", "ended", "unwanted", "recalled", "started"]

# starting → ready → draining → stopped; whatever ends unasked is failed and may be started again.
_NEXT: dict[tuple[ReplicaState, Turn], ReplicaState] = {
    ("starting", "answered"): "ready",
    ("starting", "overdue"): "failed",
    ("starting", "ended"): "failed",
    ("starting", "unwanted"): "draining",
    ("ready", "hung"): "failed",
    ("ready", "ended"): "failed",
    ("ready", "unwanted"): "draining",
    # Its last requests were still running: it may as well serve again.
    ("draining", "recalled"): "ready",
    ("draining", "ended"): "stopped",
    ("failed", "ended"): "failed",
    ("failed", "started"): "starting",
    ("failed", "unwanted"): "draining",
}


class ReplicaPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How long a replica may take for what."""

    # Between signs of life; a replica that delivers tokens is not asked for one.
    probe_every_s: float = 10.0
    # For one token from an idle replica, and from one whose load says that others come first.
    idle_answer_s: float = 10.0
    busy_answer_s: float = 120.0
    # Answers in a row that are no token.
    wrong_answers: int = 2
    # A load figure older than this says nothing about now.
    load_fresh_s: float = 15.0
    # For running requests to end, before the replica is asked to.
    drain_grace_s: float = 600.0
    # A gateway worker looks for a new snapshot five times a second and may be in the middle of a request.
    snapshot_spread_s: float = 1.0
    stop_grace_s: float = 5.0
    # After a hand-over or a start nothing is started to stand by, so that it does not run beside the first requests.
    refill_after_s: float = 2.0
    # A canary that this version answered within this time is asked again after the hand-over, not before.
    canary_fresh_s: float = 3600.0
    # After the hand-over, so that it does not run beside the first request.
    canary_later_s: float = 2.0


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """A replica as control knows it; `is_running` says that its process exists, whatever its state."""

    id: str
    deployment: str
    # Which spec it was started for.
    digest: str
    state: ReplicaState
    address: str
    token: str
    # Of a pool with several machines.
    machine: str = ""
    pid: int | None = None
    is_running: bool = True
    # It has been told to end; nothing brings it back.
    is_ending: bool = False
    reason: str | None = None
    restarts: int = 0
    # Wall clock, for people.
    started_at: float = 0.0
    # Monotonic clock, for durations.
    started_s: float = 0.0
    # Its process began; the start deadline counts from here, since weights may take long to come.
    placed_s: float = 0.0
    ready_at: float | None = None
    load_s: float | None = None
    # That its process is reckoned to hold.
    memory_bytes: int = 0


def turned(life: Life, turn: Turn, reason: str | None = None) -> Life:
    """The life after a turn; a turn that means nothing in its state changes nothing but its process."""
    is_running = life.is_running and turn != "ended"
    state = _NEXT.get((life.state, turn), life.state)
    keeps_reason = life.state == state or reason is None
    return msgspec.structs.replace(
        life, state=state, is_running=is_running, reason=life.reason if keeps_reason else reason
    )


class Pulse(msgspec.Struct, frozen=True, kw_only=True):
    """Signs of life of a ready replica, on the monotonic clock."""

    last_sign_s: float
    # A token was asked for at this time and has not come yet.
    asked_s: float | None = None
    wrong_answers: int = 0
    load: Load | None = None
    load_seen_s: float = 0.0


def with_sign(pulse: Pulse, now_s: float) -> Pulse:
    """A token came: from a probe, or from a request of a client."""
    return msgspec.structs.replace(
        pulse, last_sign_s=max(now_s, pulse.last_sign_s), asked_s=None, wrong_answers=0
    )


def with_traffic(pulse: Pulse, token_s: float) -> Pulse:
    """A client got a token at `token_s`; a probe under way stays under way."""
    return msgspec.structs.replace(pulse, last_sign_s=max(token_s, pulse.last_sign_s))


def with_question(pulse: Pulse, now_s: float) -> Pulse:
    """A token was asked for."""
    return msgspec.structs.replace(pulse, asked_s=now_s)


def with_wrong_answer(pulse: Pulse, now_s: float) -> Pulse:
    """The answer was no token: an error, a refusal of the connection, or nonsense."""
    return msgspec.structs.replace(
        pulse, asked_s=None, last_sign_s=now_s, wrong_answers=pulse.wrong_answers + 1
    )


def with_load(pulse: Pulse, load: Load, now_s: float) -> Pulse:
    """A load figure; that it moved is a sign of life of its own."""
    moved = pulse.load is not None and pulse.load != load
    return msgspec.structs.replace(
        pulse,
        load=load,
        load_seen_s=now_s,
        last_sign_s=max(now_s, pulse.last_sign_s) if moved else pulse.last_sign_s,
    )


def is_due(pulse: Pulse, policy: ReplicaPolicy, now_s: float) -> bool:
    """Time to ask for a token; after a wrong answer at once."""
    if pulse.asked_s is not None:
        return False
    wait_s = 1.0 if pulse.wrong_answers else policy.probe_every_s
    return now_s - pulse.last_sign_s >= wait_s


def why_hung(pulse: Pulse, policy: ReplicaPolicy, now_s: float) -> str | None:
    """Why this replica counts as hung, in words; None while it may be well."""
    if pulse.wrong_answers >= policy.wrong_answers:
        return f"{pulse.wrong_answers} probes in a row were not answered by a token"
    if pulse.asked_s is None:
        return None
    waited_s = now_s - max(pulse.asked_s, pulse.last_sign_s)
    limit_s = policy.busy_answer_s if _is_busy(pulse, policy, now_s) else policy.idle_answer_s
    if waited_s < limit_s:
        return None
    return f"no token for {waited_s:.0f} s (limit {limit_s:.0f} s)"


def _is_busy(pulse: Pulse, policy: ReplicaPolicy, now_s: float) -> bool:
    """Others than the probe are at work or wait, says a figure that is fresh."""
    if pulse.load is None or now_s - pulse.load_seen_s > policy.load_fresh_s:
        return False
    return pulse.load.running + pulse.load.waiting > 1
