"""What was measured of a variant on a machine, and the conditions that it holds for."""

import msgspec

# Requests at once that a sweep measures, as far as its time goes.
LOADS = (1, 2, 4, 8, 16, 32)


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """What a profile depends on; another value of any of them is another profile."""

    model: str
    artifact_sha256: str
    engine: str
    engine_version: str
    # Processor and vector units, as verdicts name it.
    machine: str
    settings: dict[str, str | int | float | bool] = {}


class LoadPoint(msgspec.Struct, frozen=True, kw_only=True):
    """How a replica answers `users` at once; latencies are medians, None for a figure that a short run did not give."""

    users: int
    output_tokens_per_s: float
    ttft_ms: float | None = None
    itl_ms: float | None = None


class SpeculationPoint(msgspec.Struct, frozen=True, kw_only=True):
    """Speculation on against off, in turns, on the same requests."""

    method: str
    workload: str
    users: int
    # Output tokens/s on divided by off.
    gain: float
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    # Mean tokens of a prompt; 0 in older profiles.
    prompt_tokens: float = 0.0


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Measured behaviour of a variant on a machine. Written by a sweep, refined by live figures."""

    conditions: Conditions
    # Wall clock, Unix seconds.
    measured_at: float
    took_s: float
    # Of a replica that loads everything before it answers; a served one may answer sooner.
    load_s: float
    prefill_tokens_per_s: float
    # By users, ascending.
    points: tuple[LoadPoint, ...]
    # Prompt tokens read per output token while `points` were measured; 0 in older profiles.
    read_per_output: float = 0.0
    speculation: tuple[SpeculationPoint, ...] = ()
    # Share of the processors' time that other programs took around the sweep, 0 to 1; None: not known.
    others_share: float | None = None
    # Sweeps by the platform itself until the machine was quiet enough.
    tries: int = 1
    # Live answers that moved the figures since.
    refined_by: int = 0
    # Ways of speculation that live answers have ended, and why; a new sweep gives them another chance.
    stopped: dict[str, str] = {}
