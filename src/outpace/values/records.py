"""Records of the gateway's journal: one JSON array per line, first element the kind.

A request has one `Reserved`, any number of `Progressed`, and one `Settled`. A request whose worker died
before `Settled` is settled by recovery at its last progress mark.
"""

import msgspec

from outpace.values.money import Price
from outpace.values.usage import Usage


class Reserved(msgspec.Struct, frozen=True, array_like=True, tag="r"):
    """Written before the engine is called."""

    request_id: str
    at_s: float
    key_id: str
    slot: int
    deployment: str
    model: str
    endpoint: str
    engine: str
    replica: str
    stream: bool
    reserved_pusd: int
    # None: unpriced deployment.
    price: Price | None
    client_request_id: str | None = None


class Progressed(msgspec.Struct, frozen=True, array_like=True, tag="p"):
    """A mark of a running stream: what would be charged if everything died now."""

    request_id: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


class Serving(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a request was served, for its receipt; journal and ledger keep it as one JSON object."""

    variant: str = ""
    engine_version: str | None = None
    precision: str | None = None
    kv_precision: str | None = None
    # A passing verdict backs the precision, or it is the reference.
    is_proven: bool = True
    # Method of speculation that was on for this request; None: off.
    speculation: str | None = None
    priority: str = "interactive"
    # Seconds it was held because nothing was ready; part of the queue time.
    held_s: float = 0.0
    # Times that its stream went on at another replica.
    moves: int = 0


class Settled(msgspec.Struct, frozen=True, array_like=True, tag="s"):
    """The end of a request, whatever it was; carries all that a receipt shows."""

    request_id: str
    at_s: float
    # HTTP status as sent; 499 when the client left.
    status: int
    # `completed`, `failed`, `cancelled`, `refused`, `recovered`.
    outcome: str
    usage: Usage
    # None: unpriced deployment.
    cost_pusd: int | None
    finish_reason: str | None = None
    error_code: str | None = None
    replica: str | None = None
    # Seconds, from monotonic clocks; None where the request did not get that far.
    queue_s: float | None = None
    ttft_s: float | None = None
    duration_s: float = 0.0
    attempts: int = 1
    num_choices: int = 1
    serving: Serving | None = None


class Refused(msgspec.Struct, frozen=True, array_like=True, tag="x"):
    """Requests turned away before any reservation, `count` of a kind; never charged, no receipt."""

    at_s: float
    key_id: str | None
    model: str | None
    status: int
    code: str | None
    count: int = 1


class LoadSeen(msgspec.Struct, frozen=True, array_like=True, tag="l"):
    """What one worker had in flight, written at most once a second and only when it changed."""

    at_s: float
    in_flight: dict[str, int]
    connections: int


Record = Reserved | Progressed | Settled | Refused | LoadSeen

_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


def encode(record: Record) -> bytes:
    """One journal line."""
    return _ENCODER.encode(record) + b"\n"


def decode(line: bytes) -> Record:
    """The record of one line. Raises msgspec.DecodeError for anything else."""
    return _DECODER.decode(line)
