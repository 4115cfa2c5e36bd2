"""What a user wants served (spec), and what of it exists (replicas)."""

from typing import Literal

import msgspec

from outpace.values.money import Price

Task = Literal["chat", "completions", "embeddings"]
ReplicaState = Literal["starting", "ready", "draining", "failed", "stopped"]
# `sleeping`: scaled to zero, wakes with the next request.
DeploymentState = Literal["ready", "starting", "sleeping", "failed", "stopped"]


class Objective(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Latency that the deployment should keep at a percentile."""

    ttft_ms: float | None = None
    itl_ms: float | None = None
    percentile: float = 95


class Traffic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Expected load: requests per second and mean lengths."""

    rate: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class Standby(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stands by for a start, dearest first: loaded and idle, engine imported without a model, weights cached."""

    loaded: int = 0
    imported: int = 0
    # Keep the weights in the page cache.
    cached: bool = False


class Replicas(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many replicas to keep; `min: 0` lets the deployment sleep."""

    min: int = 1
    max: int = 1
    # A number means that many loaded ones.
    standby: int | Standby = 0
    # With `min: 0`: the last replica leaves after this long without a request.
    idle_s: float = 600.0
    # Most replicas that load may start within an hour, however much it flaps.
    starts_per_hour: int = 120

    @property
    def stands_by(self) -> Standby:
        """What stands by, step by step."""
        return Standby(loaded=self.standby) if isinstance(self.standby, int) else self.standby


class External(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An OpenAI-compatible API elsewhere; the key stays in the environment variable."""

    base_url: str
    model: str
    api_key_env: str | None = None


class Placement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """On which machines of a cluster replicas may run, and how they share them."""

    # The cluster's name for the kind of accelerator, such as `H100`; empty: any. `none`: the engine uses none.
    accelerator: str = ""
    # Addresses of machines, as `outpace status` shows them; empty: any.
    nodes: tuple[str, ...] = ()
    # Labels that the machines must have (`outpace node join --label`).
    labels: dict[str, str] = {}
    # `spread`: over as many machines as have room; `pack`: on as few.
    strategy: Literal["spread", "pack"] = "spread"


class DeploymentSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A deployment file, parsed: unknown keys are refused. `price` None means unpriced, never free."""

    name: str
    # A catalogue id, or the path of a GGUF of the user's own; None only for external deployments.
    model: str | None = None
    objective: Objective = Objective()
    traffic: Traffic = Traffic()
    engine: str = "auto"
    precision: str = "auto"
    kv_precision: str = "auto"
    # Serve a precision that is asked for by name although no passing verdict backs it; it is marked as such.
    allow_unproven: bool = False
    speculation: str = "auto"
    # `auto`: a second variant for many users may be held beside the main one; `off`: never.
    variants: str = "auto"
    replicas: Replicas = Replicas()
    placement: Placement = Placement()
    price: Price | None = None
    external: External | None = None
    # Settings of one engine, such as `parallel` or `context_tokens` for llama.cpp or echo's switches.
    engine_settings: dict[str, str | int | float | bool] = {}


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What one replica takes of the machines it runs on; a pool of several machines places it by this."""

    # A share of processor time to reserve. The local pool reserves none, and threads may be more.
    cpus: float = 1.0
    memory_bytes: int = 0
    # Accelerators on each machine (tensor parallel), and over how many machines (pipeline parallel).
    devices: int = 0
    num_machines: int = 1
    # The cluster's name for the kind of accelerator, such as `H100`; empty: any.
    accelerator: str = ""
    # Labels that the machines must have.
    labels: dict[str, str] = {}
    # Addresses of the machines that may be taken; empty: any.
    nodes: tuple[str, ...] = ()
    # On machines that have replicas of the same deployment, rather than on others.
    packs: bool = False

    @property
    def is_bound(self) -> bool:
        """Not every machine will do."""
        return bool(self.devices or self.accelerator or self.labels or self.nodes)


class Launch(msgspec.Struct, frozen=True):
    """How to start one replica process, and where it will answer."""

    argv: tuple[str, ...]
    # `unix:/path` or `http://127.0.0.1:PORT`; the process listens there.
    address: str
    # Bearer token that the replica requires, so that nobody reaches an engine past the gateway.
    token: str
    env: dict[str, str] = {}
    needs: Needs = Needs()
    # Weights and other files that must lie where it runs; their paths occur in `argv`.
    files: tuple[str, ...] = ()
    # The command on further machines, with `{rank}`, `{num_machines}` and `{first_address}` to fill in.
    follower_argv: tuple[str, ...] = ()


class LaunchOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What an adapter needs to know to say how a replica is started."""

    replica_id: str
    deployment: str
    model: str
    artifact_path: str | None
    # Where an engine that needs the weights in a form of its own keeps them; None: nowhere.
    artifacts_dir: str | None = None
    tasks: tuple[Task, ...]
    context_tokens: int
    parallel: int
    threads: int
    # A folder of 0700 with a short path, for sockets.
    socket_dir: str
    token: str
    engine_settings: dict[str, str | int | float | bool] = {}
    # What the replica takes by the memory arithmetic; 0: not known.
    memory_bytes: int = 0
    # It answers only when nothing is left to load: for measurements. Else what the first answer needs comes first.
    loads_at_once: bool = False


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """One running engine process with one artifact."""

    id: str
    deployment: str
    state: ReplicaState
    address: str
    token: str
    pid: int | None = None
    reason: str | None = None
    started_at: float = 0.0
    ready_at: float | None = None
    load_s: float | None = None
