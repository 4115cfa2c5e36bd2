"""From what control knows to the snapshot that the gateway reads. Pure, but for `Publisher`."""

from collections.abc import Mapping, Sequence

import msgspec

from outpace.control.keys import Key, entry_of
from outpace.control.parts import Resolved
from outpace.engines.speculation import SWITCHED
from outpace.fleet.record import replace_file
from outpace.fleet.replicas import Life
from outpace.scheduling.profiles import guess_gains, variant_figures
from outpace.values import snapshot as snapshots
from outpace.values.clock import Clock
from outpace.values.deployment import DeploymentSpec, Task
from outpace.values.home import Home
from outpace.values.snapshot import DeploymentEntry, GuessGain, ReplicaEntry, Snapshot, VariantEntry

# For a model that could not be looked up: every door says `not ready`, not `no such task`.
ALL_TASKS: tuple[Task, ...] = ("chat", "completions", "embeddings")


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What control hangs on a replica's process, so that the next control can adopt it."""

    deployment: str
    digest: str
    address: str
    token: str
    started_s: float
    # The facts of the deployment as of the start; replicas and price are those of later.
    facts: DeploymentEntry
    restarts: int = 0
    # Names the recorded answers that this replica must give before it serves.
    canary: str = ""
    memory_bytes: int = 0


def facts_of(spec: DeploymentSpec, resolved: Resolved | None, created_at: float) -> DeploymentEntry:
    """A deployment's entry as far as its spec and its model say."""
    external_model = spec.external.model if spec.external else None
    return DeploymentEntry(
        name=spec.name,
        model=resolved.model if resolved else (spec.model or external_model or spec.name),
        engine_model=resolved.engine_model if resolved else spec.name,
        engine=resolved.engine if resolved else spec.engine,
        state="starting",
        created=int(created_at),
        owned_by=resolved.owned_by if resolved else "unknown",
        tasks=resolved.tasks if resolved else ALL_TASKS,
        context_tokens=resolved.context_tokens if resolved else None,
        vocabulary=resolved.vocabulary if resolved else None,
        control_texts=resolved.control_texts if resolved else (),
        price=spec.price,
        engine_settings=settings_of(spec, resolved),
        replica_in_flight=resolved.in_flight if resolved else None,
        variants=(variant_entry(spec, resolved),) if resolved else (),
    )


def settings_of(spec: DeploymentSpec, resolved: Resolved | None) -> dict[str, str | int | float | bool]:
    """The engine settings of a replica: the spec's own, and those that the choice of precision adds."""
    return {**spec.engine_settings, **(resolved.engine_settings if resolved else {})}


def variant_entry(spec: DeploymentSpec, resolved: Resolved) -> VariantEntry:
    """What serves, for receipts: engine, precisions, and whether a verdict backs them."""
    kv, figures = resolved.kv_precision, variant_figures(resolved.profile, resolved.parallel)
    return VariantEntry(
        id="/".join((resolved.engine, resolved.precision, *([kv] if kv else []))),
        engine=resolved.engine,
        engine_model=resolved.engine_model,
        engine_version=resolved.engine_version,
        precision=resolved.precision,
        kv_precision=kv,
        is_proven=resolved.is_proven,
        context_tokens=resolved.context_tokens,
        engine_settings=settings_of(spec, resolved),
        speeds=figures.speeds,
        prefill_tokens_per_s=figures.prefill_tokens_per_s,
        read_per_output=figures.read_per_output,
        in_flight=figures.in_flight,
        # What an engine cannot be told per request is decided at its launch.
        guess_gains=gains_of(resolved),
        speculation=tuple(band for band in figures.speculation if band.method == resolved.speculation)
        if resolved.engine in SWITCHED
        else (),
    )


def gains_of(resolved: Resolved) -> tuple[GuessGain, ...]:
    """What the guesses that a replica makes were measured to gain."""
    if resolved.profile is None or resolved.speculation is None:
        return ()
    return guess_gains(resolved.profile.speculation, resolved.speculation)


def launched_entries(
    lives: Sequence[Life], digest: str | None, facts: DeploymentEntry
) -> tuple[ReplicaEntry, ...]:
    """The replicas that may get traffic: ready, and of the version that is shown, whose facts these are."""
    variant = facts.variants[0].id if facts.variants else ""
    return tuple(
        ReplicaEntry(
            id=life.id,
            address=life.address,
            token=life.token,
            max_in_flight=facts.replica_in_flight,
            variant=variant,
        )
        for life in lives
        if life.state == "ready" and life.digest == digest
    )


def external_entries(spec: DeploymentSpec) -> tuple[ReplicaEntry, ...]:
    """The one replica of an external deployment: the API itself."""
    assert spec.external is not None, "only external deployments come here"
    external = spec.external
    return (
        ReplicaEntry(
            id=f"{spec.name}@1", address=external.base_url.rstrip("/"), token_env=external.api_key_env
        ),
    )


class Publisher:
    """Writes the snapshot file when what it says has changed; its version only grows."""

    def __init__(self, home: Home, clock: Clock) -> None:
        self._home = home
        self._clock = clock
        self.last = self._read()
        self._is_written = False

    def publish(self, keys: Sequence[Key], deployments: Mapping[str, DeploymentEntry]) -> bool:
        """Write keys that are not revoked, and the deployments; False when the file says so already."""
        fresh = msgspec.structs.replace(
            self.last,
            keys={key.sha256: entry_of(key) for key in keys if key.revoked_at is None},
            deployments=dict(deployments),
        )
        if self._is_written and fresh == self.last:
            return False
        fresh = msgspec.structs.replace(fresh, version=self.last.version + 1, written_at=self._clock.wall_s())
        replace_file(self._home.snapshot, snapshots.encode(fresh))
        self.last = fresh
        self._is_written = True
        return True

    def _read(self) -> Snapshot:
        try:
            return snapshots.decode(self._home.snapshot.read_bytes())
        except (OSError, msgspec.DecodeError):
            return Snapshot(version=0, written_at=0.0)
