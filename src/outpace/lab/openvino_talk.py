"""What the scorer and its OpenVINO process say to each other: frames of four bytes of length, then msgpack."""

from typing import Any

import msgspec

from outpace.precision.items import Item

_LENGTH_BYTES = 4


class Follow(msgspec.Struct, frozen=True, tag="follow", array_like=True):
    """How likely is each of `tokens` after the item?"""

    id: int
    item: Item
    tokens: tuple[int, ...]


class Say(msgspec.Struct, frozen=True, tag="say", array_like=True):
    """What does the serving pipeline answer, greedily and under the item's schema?"""

    id: int
    item: Item
    max_tokens: int


class Read(msgspec.Struct, frozen=True, tag="read", array_like=True):
    """Which tokens are the item?"""

    id: int
    item: Item


class Ready(msgspec.Struct, frozen=True, tag="ready", array_like=True):
    """Loaded; the largest difference (nats) seen between the pipeline's log-probabilities and the graph's."""

    difference_nats: float
    # Bytes of keys and values per token, as the compiled graph lays them out.
    kv_bytes_per_token: float


class Followed(msgspec.Struct, frozen=True, tag="followed", array_like=True):
    """For each position the most likely tokens with their log-probabilities."""

    id: int
    tops: list[dict[int, float]]


class Said(msgspec.Struct, frozen=True, tag="said", array_like=True):
    """An answer."""

    id: int
    tokens: list[int]
    text: str


class Tokens(msgspec.Struct, frozen=True, tag="tokens", array_like=True):
    """The tokens of an item."""

    id: int
    tokens: list[int]


class TooLong(msgspec.Struct, frozen=True, tag="too_long", array_like=True):
    """An item does not fit into the context."""

    id: int
    num_tokens: int


Order = Follow | Say | Read
Report = Ready | Followed | Said | Tokens | TooLong
ORDERS: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order)
REPORTS: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)
_ENCODE = msgspec.msgpack.Encoder().encode


def framed(message: Order | Report) -> bytes:
    """One frame."""
    body = _ENCODE(message)
    return len(body).to_bytes(_LENGTH_BYTES, "little") + body


def unframed(held: bytearray, decoder: "msgspec.msgpack.Decoder[Any]") -> list[Any]:
    """The whole messages at the beginning of `held`, taken off it."""
    found = []
    while len(held) >= _LENGTH_BYTES:
        end = _LENGTH_BYTES + int.from_bytes(held[:_LENGTH_BYTES], "little")
        if end > len(held):
            break
        found.append(decoder.decode(held[_LENGTH_BYTES:end]))
        del held[:end]
    return found
