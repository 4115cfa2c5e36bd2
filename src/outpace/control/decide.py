"""What to do so that what runs becomes what is wanted. Pure: values in, actions out."""

from collections.abc import Mapping, Sequence

import msgspec

from outpace.fleet.replicas import Life
from outpace.values.deployment import DeploymentState

_LIVE = ("starting", "ready", "failed")
# Whom to keep when there are too many: those that serve, then those that will.
_WORTH = {"ready": 0, "starting": 1, "failed": 2}


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A wanted deployment as the decision needs it."""

    name: str
    digest: str
    desired: int
    # Beyond those: loaded and idle, out of the snapshot.
    loaded: int = 0
    # False for a moment after a hand-over: a start beside the first requests would slow them down.
    refills: bool = True
    # Its weights are here and its breaker lets a start through now.
    may_start: bool

    @property
    def kept(self) -> int:
        """Replicas that shall exist."""
        return self.desired + self.loaded


class Start(msgspec.Struct, frozen=True):
    """Start a replica, a new one or one that has ended, under this id."""

    replica_id: str
    deployment: str


class Retire(msgspec.Struct, frozen=True):
    """Take a replica out of the snapshot; stop it when its requests have ended."""

    replica_id: str


class Recall(msgspec.Struct, frozen=True):
    """Let a replica that was about to end serve again."""

    replica_id: str


Action = Start | Recall | Retire


def decide(wanted: Mapping[str, Standing], lives: Sequence[Life]) -> list[Action]:
    """The actions due now. A changed deployment's old replicas stay until the new ones are ready."""
    actions: list[Action] = []
    for name in sorted({*wanted, *(life.deployment for life in lives)}):
        own = [life for life in lives if life.deployment == name]
        actions += _retirements(wanted.get(name), own) + _starts(wanted.get(name), own)
    return actions


def shown_digest(standing: Standing | None, lives: Sequence[Life]) -> str | None:
    """Which of a deployment's versions gets the traffic: the wanted one once enough of it is ready."""
    ready = [life.digest for life in lives if life.state == "ready"]
    if standing is None or not ready:
        return standing.digest if standing else None
    others = [digest for digest in ready if digest != standing.digest]
    if not others or ready.count(standing.digest) >= standing.desired:
        return standing.digest
    return others[0]


def routed(standing: Standing, lives: Sequence[Life], digest: str | None) -> list[Life]:
    """The replicas of the shown version that get traffic: those longest ready; others stand by."""
    ready = [life for life in lives if life.state == "ready" and life.digest == digest]
    return sorted(sorted(ready, key=_seniority)[: standing.desired], key=lambda life: _index(life.id))


def deployment_state(num_ready: int, *, is_given_up: bool, is_asleep: bool = False) -> DeploymentState:
    """The state that users see; one ready replica is enough to serve."""
    if num_ready:
        return "ready"
    if is_given_up:
        return "failed"
    return "sleeping" if is_asleep else "starting"


def _retirements(standing: Standing | None, own: Sequence[Life]) -> list[Action]:
    current = _current(standing, own)
    old = [life for life in own if life.state in _LIVE and life not in current]
    surplus = current[standing.kept :] if standing else []
    return [Retire(life.id) for life in surplus + _replaced(standing, current, old)]


def _replaced(standing: Standing | None, current: Sequence[Life], old: Sequence[Life]) -> list[Life]:
    if standing is None:
        return list(old)
    num_ready = sum(life.state == "ready" for life in current)
    if num_ready >= standing.desired:
        return list(old)
    # Until then the old version serves; what does not serve is in the way.
    return [life for life in old if life.state != "ready"]


def _starts(standing: Standing | None, own: Sequence[Life]) -> list[Action]:
    if standing is None:
        return []
    kept = _current(standing, own)[: standing.kept]
    again = [life.id for life in kept if life.state == "failed" and not life.is_running]
    missing = max(0, (standing.kept if standing.refills else standing.desired) - len(kept))
    back = [life.id for life in own if _can_come_back(life, standing)][:missing]
    if not standing.may_start:
        return [Recall(replica_id) for replica_id in back]
    fresh = _fresh_ids(standing, own, missing - len(back))
    recalls: list[Action] = [Recall(replica_id) for replica_id in back]
    return recalls + [Start(replica_id, standing.name) for replica_id in again + fresh]


def _can_come_back(life: Life, standing: Standing) -> bool:
    served = life.state == "draining" and life.ready_at is not None
    return served and life.is_running and not life.is_ending and life.digest == standing.digest


def _current(standing: Standing | None, own: Sequence[Life]) -> list[Life]:
    if standing is None:
        return []
    current = [life for life in own if life.state in _LIVE and life.digest == standing.digest]
    return sorted(current, key=lambda life: (_WORTH[life.state], *_seniority(life)))


def _seniority(life: Life) -> tuple[float, int]:
    """Those that serve longest first: one that took over from another is not put back by its successor."""
    return life.ready_at or 0.0, _index(life.id)


def _fresh_ids(standing: Standing, own: Sequence[Life], count: int) -> list[str]:
    """The lowest numbers that no replica of this deployment has, ending ones included."""
    taken = {_index(life.id) for life in own}
    free = (index for index in range(1, len(taken) + count + 1) if index not in taken)
    return [f"{standing.name}@{index}" for index, _ in zip(free, range(count), strict=False)]


def _index(replica_id: str) -> int:
    return int(replica_id.rpartition("@")[2])
