"""What is said on a pool's socket: one JSON object per line, an answer to each."""

import msgspec

from outpace.fleet.pool import Child, Fetching, PoolMachine
from outpace.values.deployment import Launch

LONGEST_LINE_BYTES = 1024 * 1024


class Spawn(msgspec.Struct, frozen=True, tag_field="do", tag="spawn", forbid_unknown_fields=True):
    """Start a replica process; it is never restarted by the supervisor."""

    name: str
    launch: Launch
    note: str = ""
    # It waits for the launch of another on its standard input.
    stands_by: bool = False


class HandOver(msgspec.Struct, frozen=True, tag_field="do", tag="hand_over", forbid_unknown_fields=True):
    """Let the process `standby` become the replica `name`."""

    standby: str
    name: str
    launch: Launch
    note: str = ""


class Stop(msgspec.Struct, frozen=True, tag_field="do", tag="stop", forbid_unknown_fields=True):
    """SIGTERM, and SIGKILL to the whole group after `grace_s`."""

    name: str
    grace_s: float


class List(msgspec.Struct, frozen=True, tag_field="do", tag="list", forbid_unknown_fields=True):
    """Ask for all children: programs, replicas, and replicas that ended lately."""


class Watch(msgspec.Struct, frozen=True, tag_field="do", tag="watch", forbid_unknown_fields=True):
    """Keep the connection: one answer per end of a child follows."""


class Machines(msgspec.Struct, frozen=True, tag_field="do", tag="machines", forbid_unknown_fields=True):
    """Ask for the machines of a pool that has several."""


Order = Spawn | HandOver | Stop | List | Watch | Machines


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Either children or an error; `code` is that of values/errors."""

    children: list[Child] = []
    machines: list[PoolMachine] = []
    error: str | None = None
    code: str | None = None
    # What a replica on another machine has written since it was last asked.
    log: str = ""
    # Another answer follows: the start is under way, and its weights have come so far.
    fetching: Fetching | None = None


_ENCODER = msgspec.json.Encoder()
_ORDERS: msgspec.json.Decoder[Order] = msgspec.json.Decoder(Order)
_ANSWERS: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


def line(message: Order | Answer) -> bytes:
    """One line on the socket."""
    return _ENCODER.encode(message) + b"\n"


def order(raw: bytes) -> Order:
    """The order in a line. Raises msgspec.DecodeError."""
    return _ORDERS.decode(raw)


def answer(raw: bytes) -> Answer:
    """The answer in a line. Raises msgspec.DecodeError."""
    return _ANSWERS.decode(raw)
