"""The engine leg: a pool of keep-alive HTTP/1.1 connections, parsed with httptools, one call at a time each.

Bytes go from the engine's socket to the exchange's sink in the same callback: no task, no queue, no copy.
Why not a library: measured, see MEASUREMENTS in docs/decisions/0003 (an aiohttp client doubles CPU per request).
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from typing import Protocol, cast
from urllib.parse import urlsplit

import httptools

from outpace.values.errors import EngineFailed, EngineTimedOut, OutpaceError, Overloaded

MAX_ANSWER_BYTES = 256 * 1024 * 1024
_MAX_IDLE_PER_ENGINE = 256


class Sink(Protocol):
    """Who gets the answer's pieces, in order, on the event loop."""

    def head(self, status: int, headers: Mapping[bytes, bytes]) -> None: ...

    def piece(self, data: bytes) -> None: ...


class EngineDied(EngineFailed):
    """The connection broke before the answer was whole."""


class NothingReceived(EngineDied):
    """The connection broke before the engine sent a byte: safe to try elsewhere."""

    # The request never reached the engine.
    at_connect = False
    # A kept connection, which an engine may close in the moment of its reuse: no sign of trouble.
    on_kept = False


class Exchange:
    """One call in progress; `ended` resolves when the answer is whole, or with what went wrong."""

    def __init__(self, sink: Sink, loop: asyncio.AbstractEventLoop) -> None:
        self.sink = sink
        self.ended: asyncio.Future[None] = loop.create_future()
        self.received_bytes = 0
        # Sent on a connection that was used before.
        self.on_kept = False
        self._connection: _Connection | None = None

    def attach(self, connection: "_Connection") -> None:
        """Bind the connection that carries this call."""
        self._connection = connection

    def finish(self, error: OutpaceError | None = None) -> None:
        """Resolve once; later calls change nothing."""
        if self.ended.done():
            return
        if error is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(error)

    def abort(self, error: OutpaceError) -> None:
        """Give up: close the connection, which is how engines learn to stop."""
        self.finish(error)
        if self._connection is not None:
            self._connection.close()

    def drop(self) -> None:
        """Close the connection if it still carries this call."""
        if self._connection is not None and self._connection.carries(self):
            self._connection.close()

    def pause(self) -> None:
        """Stop reading from the engine (the client is slow)."""
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """Read on."""
        if self._connection is not None:
            self._connection.resume()


class _Connection(asyncio.Protocol):
    """A keep-alive connection to one engine."""

    def __init__(self, released: "Callable[[_Connection], None]") -> None:
        self._released = released
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._head: tuple[int, dict[bytes, bytes]] | None = None
        self._pieces: list[bytes] = []
        self._keep_alive = True
        self._is_whole = False
        self._ends_by_close = False

    # -- the pool's side

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def carries(self, exchange: Exchange) -> bool:
        return self._exchange is exchange

    def send(self, message: bytes, exchange: Exchange) -> None:
        assert self._transport is not None
        assert self._exchange is None
        self._exchange = exchange
        self._is_whole = False
        exchange.attach(self)
        self._transport.write(message)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        if self.is_open and self._transport is not None and self._transport.is_reading():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self.is_open and self._transport is not None and not self._transport.is_reading():
            self._transport.resume_reading()

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            self.close()  # bytes that nobody asked for
            return
        exchange.received_bytes += len(data)
        try:
            self._parser.feed_data(data)
            self._deliver(exchange)
        except httptools.HttpParserError:
            exchange.abort(EngineFailed("The engine's answer is not HTTP."))
        except OutpaceError as error:
            exchange.abort(error)
        else:
            if exchange.received_bytes > MAX_ANSWER_BYTES:
                exchange.abort(EngineFailed("The engine's answer exceeds the size limit."))
            elif self._is_whole:
                self._complete(exchange)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        exchange, self._exchange = self._exchange, None
        self._released(self)
        if exchange is None or exchange.ended.done():
            return
        if self._ends_by_close and not self._is_whole:
            exchange.finish()
        elif exchange.received_bytes == 0:
            nothing = NothingReceived("The engine closed the connection before answering.", retry_after_s=1)
            nothing.on_kept = exchange.on_kept
            exchange.finish(nothing)
        else:
            exchange.finish(EngineDied("The engine died in the middle of its answer.", retry_after_s=1))

    # -- httptools' side

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        headers, self._headers = self._headers, {}
        status = self._parser.get_status_code()
        if status < 200:
            return
        self._keep_alive = self._parser.should_keep_alive()
        self._ends_by_close = b"content-length" not in headers and b"transfer-encoding" not in headers
        self._head = status, headers

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() >= 200:
            self._is_whole = True

    # -- inside

    # The sink is called after the parser returned: an error raised inside a parser callback loses its type.
    def _deliver(self, exchange: Exchange) -> None:
        head, self._head = self._head, None
        pieces, self._pieces = self._pieces, []
        if exchange.ended.done():
            return
        if head is not None:
            exchange.sink.head(*head)
        if pieces:
            exchange.sink.piece(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def _complete(self, exchange: Exchange) -> None:
        self._exchange = None
        if not self._keep_alive:
            self.close()
        self._released(self)
        exchange.finish()


class EnginePool:
    """Connections to one engine address."""

    def __init__(self, address: str, token: str | None, *, connect_timeout_s: float = 5.0) -> None:
        self._target = _Target.parse(address)
        self._head = self._target.head(token)
        self._connect_timeout_s = connect_timeout_s
        self._idle: list[_Connection] = []

    async def start(
        self, path: str, body: bytes, request_id: str, sink: Sink, *, fresh: bool = False
    ) -> Exchange:
        """Send one POST. `fresh` asks for a new connection: a kept one may close at the moment of its reuse.

        Raises EngineFailed (`NothingReceived`) when the engine cannot be reached, EngineTimedOut when it does not
        accept within the connect time-out, Overloaded when this process has no file descriptor left.
        """
        exchange = Exchange(sink, asyncio.get_running_loop())
        kept = None if fresh else self._take_idle()
        exchange.on_kept = kept is not None
        connection = kept or await self._connect()
        message = b"".join(
            (
                b"POST ",
                self._target.base,
                path.encode(),
                self._head,
                request_id.encode(),
                b"\r\ncontent-length: ",
                str(len(body)).encode(),
                b"\r\n\r\n",
                body,
            )
        )
        connection.send(message, exchange)
        return exchange

    def close(self) -> None:
        """Close the idle connections; running calls end by themselves."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _take_idle(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return None

    def _release(self, connection: _Connection) -> None:
        if not connection.is_open:
            if connection in self._idle:
                self._idle.remove(connection)
        elif len(self._idle) < _MAX_IDLE_PER_ENGINE:
            self._idle.append(connection)
        else:
            connection.close()

    async def _connect(self) -> _Connection:
        connection = _Connection(self._release)
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await self._target.open(connection)
        except TimeoutError:
            raise EngineTimedOut(
                "The engine does not accept connections; try again.", retry_after_s=1
            ) from None
        except OSError as error:
            if error.errno in _NO_DESCRIPTORS:
                raise Overloaded(
                    "The gateway is out of file descriptors; try again.", retry_after_s=1
                ) from error
            unreached = NothingReceived("The engine cannot be reached.", retry_after_s=1)
            unreached.at_connect = True
            raise unreached from error
        return connection


_NO_DESCRIPTORS = (23, 24)  # ENFILE, EMFILE


class _Target:
    """Where a pool connects to."""

    def __init__(self, *, unix: str | None, host: str, port: int, base: str, tls: bool) -> None:
        self.unix = unix
        self.host = host
        self.port = port
        self.base = base.encode()
        self.tls = ssl.create_default_context() if tls else None

    @classmethod
    def parse(cls, address: str) -> "_Target":
        if address.startswith("unix:"):
            return cls(unix=address.removeprefix("unix:"), host="localhost", port=0, base="", tls=False)
        url = urlsplit(address)
        tls = url.scheme == "https"
        return cls(
            unix=None,
            host=url.hostname or "",
            port=url.port or (443 if tls else 80),
            base=url.path.rstrip("/"),
            tls=tls,
        )

    def head(self, token: str | None) -> bytes:
        host = self.host if self.port in (0, 80, 443) else f"{self.host}:{self.port}"
        lines = [f" HTTP/1.1\r\nhost: {host}", "content-type: application/json", "accept: */*"]
        if token:
            lines.append(f"authorization: Bearer {token}")
        return ("\r\n".join(lines) + "\r\nx-request-id: ").encode()

    async def open(self, connection: _Connection) -> None:
        loop = asyncio.get_running_loop()
        if self.unix is not None:
            await loop.create_unix_connection(lambda: connection, self.unix)
        else:
            await loop.create_connection(lambda: connection, self.host, self.port, ssl=self.tls)
