"""One answer on its way from an engine to a client: bytes through the reader, marks to the meter.

A relay is the sink of an exchange. Nothing is sent to the client before the engine's first useful byte, so every
failure before it keeps its true HTTP status; after it, errors travel in the stream.
"""

import asyncio
from collections.abc import Callable, Mapping

from outpace.engines.protocol import Reader
from outpace.gateway.door import Cycle
from outpace.gateway.door_head import Headers
from outpace.gateway.moving import Transcript
from outpace.gateway.upstream import Exchange
from outpace.values.errors import EngineFailed, InvalidInput, OutpaceError
from outpace.values.usage import Usage

# A stream's mark in the journal: after the first tokens, then each time this many more were sent.
MARK_EVERY_TOKENS = 64
# A client that reads nothing for this long is treated as gone.
STALL_S = 60.0


class ClientLeft(OutpaceError):
    """The client closed its connection; nobody is left to answer."""

    code = "client_left"
    status = 499


class Relay:
    """Connects one exchange to one client."""

    def __init__(
        self,
        cycle: Cycle,
        reader: Reader,
        *,
        is_stream: bool,
        head: Callable[[], Headers],
        mark: Callable[[Usage], None],
        wrote: Callable[[], None],
        now_s: Callable[[], float],
        transcript: Transcript | None = None,
    ) -> None:
        self._cycle = cycle
        self._reader = reader
        self._is_stream = is_stream
        self._head = head
        self._mark = mark
        # Told at the first token of each replica.
        self._wrote = wrote
        self._tokens_before: int | None = 0
        self._now_s = now_s
        # Kept where the stream could go on at another replica.
        self._transcript = transcript
        self._exchange: Exchange | None = None
        self._next_mark_tokens = 1
        self._stall: asyncio.Task[None] | None = None
        self.first_byte_s: float | None = None

    @property
    def has_sent(self) -> bool:
        """Bytes of the answer went to the client."""
        return self._is_stream and self.first_byte_s is not None

    @property
    def reader(self) -> Reader:
        """What the answer said so far."""
        return self._reader

    def follow(self, reader: Reader) -> None:
        """Go on with the answer of another replica."""
        self._reader = reader
        self._tokens_before = reader.usage.completion_tokens

    def bind(self, exchange: Exchange) -> None:
        """The exchange to pause or abort."""
        self._exchange = exchange

    # -- the exchange's side

    def head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        """The engine's status and headers."""
        self._reader.started(status, headers)

    def piece(self, data: bytes) -> None:
        """A piece of the engine's body."""
        out = self._reader.feed(data)
        if self._tokens_before is not None and self._reader.usage.completion_tokens > self._tokens_before:
            self._tokens_before = None
            self._wrote()
        if out:
            self._send(out)

    def finish(self) -> None:
        """The engine's body is whole: send what is left. Raises EngineFailed when the answer is cut short."""
        out = self._reader.finished()
        if not self._reader.is_complete:
            raise EngineFailed("The engine ended its answer too early.")
        if not self._is_stream:
            self.first_byte_s = self._now_s()
            self._cycle.respond(200, self._head(), out)
            return
        if self.first_byte_s is None and out:
            self._send(out)
            out = b""
        if self.first_byte_s is None:
            raise EngineFailed("The engine's stream was empty.")
        self._cycle.end_stream(out)
        self.close()

    def close(self) -> None:
        """No more of this answer goes out."""
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    # -- inside

    def _send(self, out: bytes) -> None:
        if self.first_byte_s is None:
            self.first_byte_s = self._now_s()
            # A stream that waited for its place has begun already, with comments.
            if not self._cycle.is_started:
                self._cycle.start_stream(200, self._head())
        self._cycle.write_chunk(out)
        if self._transcript is not None:
            self._transcript.add(out)
        usage = self._reader.usage
        if usage.completion_tokens >= self._next_mark_tokens:
            self._next_mark_tokens = usage.completion_tokens + MARK_EVERY_TOKENS
            self._mark(usage)
        if self._cycle.is_paused and self._stall is None and self._exchange is not None:
            self._exchange.pause()
            self._stall = asyncio.create_task(self._wait_for_client(self._exchange))

    async def _wait_for_client(self, exchange: Exchange) -> None:
        try:
            async with asyncio.timeout(STALL_S):
                await self._cycle.drain()
        except TimeoutError:
            exchange.abort(ClientLeft("The client stopped reading."))
        else:
            exchange.resume()
        self._stall = None


def outcome_of(error: OutpaceError | None) -> str:
    """How a request ended, in a word for its receipt."""
    if error is None:
        return "completed"
    if isinstance(error, ClientLeft):
        return "cancelled"
    return "refused" if isinstance(error, InvalidInput) or error.status == 400 else "failed"
