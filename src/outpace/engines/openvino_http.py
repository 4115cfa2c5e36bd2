"""HTTP of the OpenVINO front: requests off a connection, one after the other; the bearer token is checked here."""

import asyncio
import hmac
from collections import deque
from typing import Protocol, cast
from urllib.parse import urlsplit

import httptools

from outpace.engines.responses import error_body, json_response


class Work(Protocol):
    """What a connection is waiting for."""

    def leave(self) -> None:
        """The client is gone."""
        ...


class Door(Protocol):
    """What answers requests."""

    def is_allowed(self, authorization: bytes) -> bool:
        """The caller knows the replica's token."""
        ...

    def ask(self, path: str, body: bytes, connection: "Connection") -> "bytes | Work":
        """A whole response, or work that will write to the connection and call `done`."""
        ...


class Connection(asyncio.Protocol):
    """One client connection."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._waiting: deque[tuple[str, bytes, bytes]] = deque()
        self._work: Work | None = None

    def write(self, data: bytes) -> None:
        """Send to the client."""
        self._transport.write(data)

    def done(self) -> None:
        """The work has written its last byte: the next request's turn."""
        self._work = None
        self._next()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.write(json_response(400, error_body("not HTTP", None)))
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._waiting.clear()
        if self._work is not None:
            self._work.leave()

    def on_message_begin(self) -> None:
        self._url, self._authorization, self._body = b"", b"", bytearray()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"authorization":
            self._authorization = value

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        path = urlsplit(self._url.decode("latin-1")).path
        self._waiting.append((path, self._authorization, bytes(self._body)))
        self._next()

    def _next(self) -> None:
        while self._waiting and self._work is None:
            path, authorization, body = self._waiting.popleft()
            if path != "/health" and not self._door.is_allowed(authorization):
                self.write(json_response(401, error_body("unknown token", "invalid_api_key")))
                continue
            answer = self._door.ask(path, body, self)
            if isinstance(answer, bytes):
                self.write(answer)
            else:
                self._work = answer


def token_check(token: str) -> "bytes | None":
    """What an allowed caller's header says; None when everyone is."""
    return f"Bearer {token}".encode() if token else None


def is_same(expected: "bytes | None", authorization: bytes) -> bool:
    """The header is the expected one, compared in constant time."""
    return expected is None or hmac.compare_digest(authorization, expected)
