"""What the two OpenVINO processes say to each other, and the body that the adapter sends them.

The front speaks HTTP and text, the stepper computes. Frames on their socket: four bytes of length, then msgpack.
"""

import socket
from typing import Any

import msgspec

from outpace.engines.openvino_config import OpenVinoConfig

_LENGTH_BYTES = 4


class Sampling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, array_like=True):
    """How one sequence is sampled; every limit is already applied."""

    max_tokens: int
    seed: int
    # 0 is greedy.
    temperature: float
    top_p: float = 1.0
    # 0: all tokens.
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    wants_logprobs: bool = False
    json_schema: str | None = None
    # Guess tokens ahead, where the replica can.
    speculates: bool = True
    # Nothing that only the library's pipeline does.
    is_plain: bool = True


class Add(msgspec.Struct, frozen=True, tag="add", array_like=True):
    """Begin a sequence; `prompt` holds 64-bit token ids."""

    id: int
    prompt: bytes
    sampling: Sampling
    # Whose cached prefixes and earlier answers count.
    tenant: str = ""


class Drop(msgspec.Struct, frozen=True, tag="drop", array_like=True):
    """Give a sequence up."""

    id: int


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """What one sequence got in a step; `end` is set when it was its last."""

    id: int
    tokens: list[int]
    logprobs: list[float] = []
    # `stop`, `length`, `dropped`, or what went wrong.
    end: str | None = None
    # Tokens that were guessed for this step, and those of them that were right.
    drafted: int = 0
    accepted: int = 0
    # Of the prompt, told with the first token: what an earlier prompt had left in the pages.
    cached: int = 0


class Step(msgspec.Struct, frozen=True, tag="step", array_like=True):
    """One step of the engine."""

    pieces: list[Piece]
    kv_used_fraction: float


class Loaded(msgspec.Struct, frozen=True, tag="loaded", array_like=True):
    """The weights are in memory."""

    load_s: float


Order = Add | Drop
Report = Step | Loaded

_ENCODE = msgspec.msgpack.Encoder().encode
_ORDERS: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order)
_REPORTS: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)


def framed(message: Order | Report) -> bytes:
    """One frame."""
    body = _ENCODE(message)
    return len(body).to_bytes(_LENGTH_BYTES, "little") + body


def framed_config(config: OpenVinoConfig) -> bytes:
    """The first frame to the process that computes: what it is to load."""
    body = _ENCODE(config)
    return len(body).to_bytes(_LENGTH_BYTES, "little") + body


def take_config(front: socket.socket) -> OpenVinoConfig | None:
    """The first frame, and no byte more; None when the other end is gone."""
    head = front.recv(_LENGTH_BYTES, socket.MSG_WAITALL)
    if len(head) < _LENGTH_BYTES:
        return None
    length = int.from_bytes(head, "little")
    body = front.recv(length, socket.MSG_WAITALL)
    return msgspec.msgpack.decode(body, type=OpenVinoConfig) if len(body) == length else None


class Frames:
    """Joins what a socket delivers into whole frames."""

    def __init__(self) -> None:
        self._held = bytearray()

    def orders(self, received: bytes) -> list[Order]:
        """The whole orders so far."""
        return [_ORDERS.decode(body) for body in self._whole(received)]

    def reports(self, received: bytes) -> list[Report]:
        """The whole reports so far."""
        return [_REPORTS.decode(body) for body in self._whole(received)]

    def _whole(self, received: bytes) -> list[bytes]:
        self._held += received
        bodies, start = [], 0
        while len(self._held) - start >= _LENGTH_BYTES:
            length = int.from_bytes(self._held[start : start + _LENGTH_BYTES], "little")
            end = start + _LENGTH_BYTES + length
            if end > len(self._held):
                break
            bodies.append(bytes(self._held[start + _LENGTH_BYTES : end]))
            start = end
        del self._held[:start]
        return bodies


class Ask(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The body of a request to the front: OpenAI's names where the meaning is the same."""

    model: str = ""
    messages: list[dict[str, Any]] | None = None
    # Texts, or lists of token ids.
    prompts: list[str | list[int]] | None = None
    stream: bool = False
    max_tokens: int | None = None
    min_tokens: int = 0
    n: int = 1
    stop: list[str] = []
    stop_token_ids: list[int] = []
    seed: int | None = None
    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.05
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    ignore_eos: bool = False
    logprobs: bool = False
    echo: bool = False
    json_schema: msgspec.Raw = msgspec.Raw()
    # The answer is a call: of this function, or (empty) of the one that it names.
    call: str | None = None
    chat_template_kwargs: dict[str, Any] = {}
    # False: without guesses, though the replica has them.
    speculate: bool = True
    # The same for requests that may share cached prefixes and guesses from earlier answers.
    cache_salt: str = ""
