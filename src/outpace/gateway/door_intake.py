"""What arrives on a connection, made into requests: httptools' callbacks, with the limits of heads and bodies."""

from typing import Any, Protocol

import httptools

from outpace.gateway.door_cycle import Cycle
from outpace.gateway.door_head import (
    Head,
    Headers,
    body_too_long,
    head_bytes,
    head_too_long,
    read_head,
    too_many_headers,
)
from outpace.gateway.door_sweep import DoorState
from outpace.values.errors import InvalidInput, OutpaceError, Overloaded, RequestTooLarge

# Chunk sizes, extensions and trailers beyond this, for each chunk, have no honest use.
_FRAMING_BYTES_PER_CHUNK = 64


class Owner(Protocol):
    """What the intake needs of its connection."""

    def may_begin(self) -> bool:
        """Whether one more request may be sent ahead."""
        ...

    def begin(self, head: Head, headers: Headers, method: str, is_reusable: bool) -> Cycle:
        """A head is whole and good."""
        ...

    def received(self, cycle: Cycle) -> None:
        """A request is whole."""
        ...


class Intake:
    """Parses one connection; `feed` says what is wrong with the bytes, once."""

    def __init__(self, owner: Owner, state: DoorState) -> None:
        self._owner = owner
        self._state = state
        self._limits = state.limits
        self._parser: Any = httptools.HttpRequestParser(self)
        # Bytes after `Connection: close` are not an error of the request before them.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.is_in_head = False
        # The request whose body is arriving.
        self.arriving: Cycle | None = None
        self._headers: Headers = []
        self._target = b""
        self._has_begun = False
        self._packet_bytes = 0
        self._earlier_head_bytes = 0
        self._raw_body_bytes = 0
        self._counted_bytes = 0

    def feed(self, data: bytes) -> OutpaceError | None:
        """Parse bytes; returns the refusal when no more can follow. `EnoughPipelined` is not for the client."""
        self._packet_bytes = len(data)
        self._has_begun = False
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            return _refusal(error)
        if self.is_in_head:
            return self._watch_head()
        if self.arriving is not None:
            return self._watch_body(self.arriving)
        if self._counted_bytes:
            self._release()
        return None

    def end(self) -> None:
        """The connection is gone. Cuts the cycle of references between parser and callbacks."""
        self._parser = None
        self.arriving = None
        self._release()

    # -- httptools' callbacks

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        if not self._owner.may_begin():
            raise EnoughPipelined("Too many requests were sent ahead of their answers.")
        self.is_in_head = True
        self._has_begun = True
        self._earlier_head_bytes = 0
        self._headers.clear()
        self._target = b""

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field, or a trailer, which ends in a list that nobody reads."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        limits, parser, headers = self._limits, self._parser, self._headers
        self._headers = []
        if self._earlier_head_bytes + self._packet_bytes > limits.max_head_bytes and (
            head_bytes(self._target, headers) > limits.max_head_bytes
        ):
            raise head_too_long(limits)
        if parser.should_upgrade():
            raise InvalidInput(None, "upgrades and tunnels are not offered; send a plain HTTP/1.1 request")
        head = read_head(self._target, parser.get_http_version(), headers, limits)
        self.is_in_head = False
        self._raw_body_bytes = 0
        method = parser.get_method().decode("ascii")
        self.arriving = self._owner.begin(head, headers, method, parser.should_keep_alive())

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        cycle = self.arriving
        if cycle is None:
            return
        cycle.take_part(body)
        if cycle.received_bytes > self._limits.max_body_bytes:
            raise body_too_long(self._limits)

    def on_chunk_header(self) -> None:
        """A chunk begins."""
        cycle = self.arriving
        if cycle is None:
            return
        cycle.num_chunks += 1
        if cycle.num_chunks > self._limits.max_chunks:
            most = self._limits.max_chunks
            raise RequestTooLarge(
                f"The body has more than {most} chunks; send larger ones or a Content-Length."
            )

    def on_message_complete(self) -> None:
        """The body is whole."""
        cycle, self.arriving = self.arriving, None
        if cycle is not None:
            cycle.end_body()
            self._owner.received(cycle)

    # -- limits of what is not whole yet

    def _watch_head(self) -> OutpaceError | None:
        # The packet in which a head begins may hold the body before it, so only those after it count.
        if not self._has_begun:
            self._earlier_head_bytes += self._packet_bytes
        if self._earlier_head_bytes > self._limits.max_head_bytes:
            return head_too_long(self._limits)
        if len(self._headers) > self._limits.max_headers:
            return too_many_headers(self._limits)
        return None

    def _watch_body(self, cycle: Cycle) -> OutpaceError | None:
        limits = self._limits
        # The packet of the head is left out: it is bounded anyway.
        framing_bytes = self._raw_body_bytes - cycle.received_bytes
        self._raw_body_bytes += self._packet_bytes
        self._counted_bytes += self._packet_bytes
        if framing_bytes > limits.max_head_bytes + _FRAMING_BYTES_PER_CHUNK * cycle.num_chunks:
            return InvalidInput(None, "the body has more framing than content; send larger chunks")
        if self._state.count_arriving(self._packet_bytes) > limits.max_arriving_bytes:
            return Overloaded("Too many large requests are arriving; try again.", retry_after_s=1)
        return None

    def _release(self) -> None:
        self._state.count_arriving(-self._counted_bytes)
        self._counted_bytes = 0


class EnoughPipelined(OutpaceError):
    """More requests were sent ahead than are kept; the client repeats them (RFC 9112 section 9.3.2)."""


def _refusal(error: Exception) -> OutpaceError:
    """Why the parser stopped: a refusal of ours raised in a callback, or because this is not HTTP."""
    cause = error.__context__
    if isinstance(cause, OutpaceError):
        return cause
    if cause is not None:
        raise error
    return InvalidInput(None, "this is not a valid HTTP/1.1 request; use an HTTP client")
