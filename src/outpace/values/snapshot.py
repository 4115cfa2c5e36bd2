"""What the gateway knows: written whole by control, read by every worker, kept when control is dead."""

import msgspec

from outpace.values.deployment import DeploymentState, Objective, Task
from outpace.values.money import Price


class KeyEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One API key as the gateway sees it; the key itself is known only as its SHA-256."""

    id: str
    name: str
    # Row of this key in the counters file.
    slot: int
    # `inference` calls models, `admin` drives the admin API.
    scopes: tuple[str, ...]
    # None allows every model.
    models: tuple[str, ...] | None = None
    rpm: int | None = None
    tpm: int | None = None
    budget_pusd: int | None = None
    expires_at: float | None = None


class SpeculationBand(msgspec.Struct, frozen=True, kw_only=True):
    """Speculation as the profile found it: up to `most_users` at once it multiplies output tokens/s by `gain`."""

    method: str
    most_users: int
    gain: float


class GuessGain(msgspec.Struct, frozen=True, kw_only=True):
    """What guesses gain with `users` at once on prompts of this length: tokens/s over those without, measured."""

    users: int
    prompt_tokens: float
    gain: float


class VariantEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One engine × precision × settings of a deployment, with what was measured of it on its machine."""

    id: str
    engine: str
    engine_model: str
    engine_version: str | None = None
    precision: str | None = None
    kv_precision: str | None = None
    is_proven: bool = True
    context_tokens: int | None = None
    engine_settings: dict[str, str | int | float | bool] = {}
    # Output tokens/s of one replica by requests at once, ascending; empty: not measured yet.
    speeds: tuple[tuple[int, float], ...] = ()
    prefill_tokens_per_s: float | None = None
    # Prompt tokens read per output token while `speeds` were measured.
    read_per_output: float = 0.0
    # Requests at once per replica, of all gateway workers together; more wait in the gateway.
    in_flight: int | None = None
    speculation: tuple[SpeculationBand, ...] = ()
    # Of the way of guessing that it has; `speeds` are without.
    guess_gains: tuple[GuessGain, ...] = ()


class ReplicaEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A replica that may get traffic. `address` is `unix:/path` or `http(s)://host:port/base`."""

    id: str
    address: str
    token: str | None = None
    # Name of the environment variable with the bearer token, for external APIs.
    token_env: str | None = None
    max_in_flight: int | None = None
    # Id of its variant in the deployment's `variants`; empty: the deployment's own facts hold.
    variant: str = ""


class DeploymentEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One deployment as the gateway sees it."""

    name: str
    model: str
    # Name that the engine expects in `model`.
    engine_model: str
    engine: str
    state: DeploymentState
    reason: str | None = None
    created: int
    owned_by: str
    tasks: tuple[Task, ...]
    # Context of one sequence; None when not known (external APIs).
    context_tokens: int | None = None
    vocabulary: int | None = None
    # Texts that the tokenizer turns into control tokens; message content must not contain them as such.
    control_texts: tuple[str, ...] = ()
    # None: unpriced. Served only to keys without a budget.
    price: Price | None = None
    replicas: tuple[ReplicaEntry, ...] = ()
    # Requests that one gateway worker sends to one of these replicas at once; more wait in the gateway.
    replica_in_flight: int | None = None
    engine_settings: dict[str, str | int | float | bool] = {}
    # Deployment time-out for one answer, first byte to last.
    timeout_s: float = 600.0
    # Expected seconds until a starting (or sleeping) deployment answers, when known.
    ready_in_s: float | None = None
    variants: tuple[VariantEntry, ...] = ()
    objective: Objective = Objective()
    # Scaled to zero by itself; a request wakes it and is held until its deadline.
    wakes: bool = False


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Keys by SHA-256 (hex) and deployments by public name."""

    version: int
    written_at: float
    keys: dict[str, KeyEntry] = {}
    deployments: dict[str, DeploymentEntry] = {}


_DECODER = msgspec.json.Decoder(Snapshot)


def encode(snapshot: Snapshot) -> bytes:
    """Bytes of the snapshot file."""
    return msgspec.json.encode(snapshot)


def decode(raw: bytes) -> Snapshot:
    """The snapshot in `raw`. Raises msgspec.DecodeError when it is not one."""
    return _DECODER.decode(raw)
