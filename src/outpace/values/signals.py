"""Datagrams between gateway workers and control: hints that make the next look sooner, never the truth itself.

Each is one JSON object on a Unix datagram socket in the home's socket folder (`control.sock`, `gateway-N.sock`). Lost
ones cost time, not correctness: control also reads journals, workers also look at the snapshot file by themselves.
"""

import msgspec

CONTROL_SOCKET = "control.sock"


def worker_socket(index: int) -> str:
    """Name of a gateway worker's socket."""
    return f"gateway-{index}.sock"


class DeploymentDemand(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker has to do for one deployment now, and has seen since it started (`arrived` only grows)."""

    waiting: int = 0
    running: int = 0
    # Prompt and output tokens still expected of those; a bound where the request does not say.
    waiting_tokens: int = 0
    running_tokens: int = 0
    arrived: int = 0
    arrived_tokens: int = 0
    # Age of the one that has waited longest.
    oldest_wait_s: float = 0.0


class Demand(msgspec.Struct, frozen=True, kw_only=True, tag="demand"):
    """A worker's demand by deployment: at once when a request finds nothing ready, else each 0.5 s when changed."""

    worker: int
    deployments: dict[str, DeploymentDemand]


class SnapshotWritten(msgspec.Struct, frozen=True, kw_only=True, tag="snapshot"):
    """Control has replaced the snapshot file; the worker looks at it at once."""

    version: int


Signal = Demand | SnapshotWritten

_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[Signal] = msgspec.json.Decoder(Signal)


def encode(signal: Signal) -> bytes:
    """One datagram."""
    return _ENCODER.encode(signal)


def decode(datagram: bytes) -> Signal:
    """The signal of one datagram. Raises msgspec.DecodeError."""
    return _DECODER.decode(datagram)
