"""What control is given by compose: settings of its own, and the rooms that it must not know."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from outpace.engines.protocol import Engine
from outpace.fleet.pool import Child, Pool
from outpace.fleet.replicas import ReplicaPolicy
from outpace.fleet.restarts import RestartPolicy
from outpace.values.clock import Clock
from outpace.values.deployment import DeploymentSpec, Task
from outpace.values.home import Home
from outpace.values.money import Price
from outpace.values.profile import Profile

# Called with bytes done, and bytes in all where known.
Progress = Callable[[int, int | None], None]
# Called with a model and what says when to stand still.
Prove = Callable[[str, Callable[[], bool]], Awaitable[None]]


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """What must be known of a deployment's model to launch it and to check requests for it."""

    # A name of the engine registry, never `auto`.
    engine: str
    # For people: the catalogue id or the file's name.
    model: str
    # The name that the engine expects in `model`.
    engine_model: str
    owned_by: str
    precision: str
    kv_precision: str | None = None
    engine_version: str | None = None
    tasks: tuple[Task, ...]
    # Of one sequence; None where it is not known (external APIs).
    context_tokens: int | None = None
    vocabulary: int | None = None
    control_texts: tuple[str, ...] = ()
    artifact_path: str | None = None
    # The weights are not on this machine; `pull` brings them.
    needs_pull: bool = False
    # Sequences that one replica runs at once, and threads that it may use.
    parallel: int = 1
    threads: int = 1
    # Names the artifact among those that the model has; replicas of another one are of another version.
    variant: str = ""
    # Names the answers that were recorded when this variant was proven; empty: none were.
    canary: str = ""
    # Why this precision was taken, and whether its quality is proven here.
    precision_reason: str | None = None
    is_proven: bool = True
    # Requests that one gateway worker may have at one replica; None: the engine queues without limit.
    in_flight: int | None = None
    # Memory of one replica: weights, KV cache, and what is beside them.
    replica_bytes: int = 0
    # What the choice adds to the spec's own engine settings, such as the KV cache's format.
    engine_settings: dict[str, str | int | float | bool] = {}
    # Way of guessing tokens ahead (None: off), and why.
    speculation: str | None = None
    speculation_reason: str | None = None
    # What was measured of this variant here; None with the reason, where something could be measured.
    profile: Profile | None = None
    profile_reason: str | None = None
    # The second variant, for many users; None with the reason.
    companion: "Resolved | None" = None
    no_companion: str | None = None


class Credentials(msgspec.Struct, frozen=True):
    """The owner's keys, made before the first start."""

    api_key: str
    admin_key: str


class ControlSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Control's part of the platform's settings."""

    admin_host: str = "127.0.0.1"
    admin_port: int = 8001
    # None: SQLite in the home; otherwise a PostgreSQL URL.
    database: str | None = None
    billing: str = "auto"
    version: str = "0"


class ControlParts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that control is composed of. The callables may block: control brings threads for them."""

    home: Home
    clock: Clock
    credentials: Credentials
    pool: Pool
    # The platform's own processes, for the status page.
    programs: Callable[[], Awaitable["ProgramList"]]
    # An engine adapter by name. Raises InvalidInput.
    engine: Callable[[str], Engine]
    # Looks the model of a spec up, without network; never called for external ones.
    # Raises InvalidInput, ModelNotFound, WeightsInvalid.
    resolve: Callable[[DeploymentSpec], Resolved]
    # Brings the weights. Raises OutpaceError.
    pull: Callable[[DeploymentSpec, Progress], None]
    # The list price of a catalogue model; None: unpriced or not in the catalogue.
    list_price: Callable[[str], Price | None]
    # The catalogue as `GET /admin/models` tells it.
    models: Callable[[], list[dict[str, Any]]]
    # The value of an environment variable that holds a secret.
    secret: Callable[[str], str | None]
    # Makes and gates faster formats of a model, in a process of its own that stands still while the function says so.
    # Raises OutpaceError. None: nobody does.
    prove: Prove | None = None
    # Measures a spec's variant on an engine, in a process of its own; cancelling ends it. Raises OutpaceError.
    # None: nobody does.
    profile: Callable[[DeploymentSpec, str], Awaitable[None]] | None = None
    # Writes a profile that live answers have changed.
    keep_profile: Callable[[Profile], None] | None = None
    # Address, token and canary name of a replica that has just come up → why it is not what was proven; None: it is.
    canary: Callable[[str, str, str], Awaitable[str | None]] | None = None
    # Replicas run on the machines of a cluster.
    has_machines: bool = False
    # Of this machine, for replicas; None where they run elsewhere.
    memory_bytes: int | None = None
    replica_policy: ReplicaPolicy = ReplicaPolicy()
    # Killed from outside is no reason to give up: an open breaker is tried again by itself.
    restart_policy: RestartPolicy = RestartPolicy(
        first_wait_s=0.5, longest_wait_s=10.0, healthy_after_s=10.0, retry_open_s=30.0
    )


class ProgramList(msgspec.Struct, frozen=True):
    """The platform's own processes as the supervisor tells them."""

    children: list[Child]
