"""A replica's door on a machine of the cluster: TCP with a bearer token in front of the engine's Unix socket.

The first request of a connection must carry the token; behind it the connection is the gateway's, and bytes pass
through unread. Nothing of the engine, health and metrics included, is reached without the token.
"""

import asyncio
import hmac
from typing import cast

_LONGEST_HEAD_BYTES = 16 * 1024
_HEAD_DEADLINE_S = 10.0
_REFUSED = (
    b"HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\ncontent-length: 72\r\nconnection: close\r\n\r\n"
    b'{"error":{"message":"unknown token","type":"auth","code":"wrong_token"}}'
)


class Relay:
    """The door; `point` says which engine stands behind it, and until then nobody gets in."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._path = ""
        self._expected = b""
        self.connections: set[_Outside] = set()

    async def open(self, host: str) -> str:
        """Listen on a free port of `host`; the address to call."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Outside(self), host, 0, backlog=1024)
        port = self._server.sockets[0].getsockname()[1]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def point(self, path: str, token: str) -> None:
        """From now on the engine at this socket stands behind the door, for who knows this token."""
        assert token, "an engine without a token must not get a port"
        self._path, self._expected = path, f"bearer {token}".encode()

    def close(self) -> None:
        """Stop listening and cut what is open."""
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.end()

    def is_allowed(self, head: bytes) -> bool:
        """Exactly one authorization in this head, and it is the expected one."""
        lines = head.split(b"\r\n")[1:]
        pairs = (line.partition(b":") for line in lines)
        given = [value.strip() for name, _, value in pairs if name.strip().lower() == b"authorization"]
        if len(given) != 1 or not self._expected:
            return False
        scheme, _, token = given[0].partition(b" ")
        return hmac.compare_digest(scheme.lower() + b" " + token.strip(), self._expected)

    async def reach(self, outside: "_Outside") -> "_Inside | None":
        """A connection to the engine; None when it does not listen."""
        loop = asyncio.get_running_loop()
        try:
            _, inside = await loop.create_unix_connection(lambda: _Inside(outside), self._path)
        except OSError:
            return None
        return inside


class _End(asyncio.Protocol):
    """One end of a pair: what comes in here goes out there, no faster than it is taken."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: _End | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.end()

    def end(self) -> None:
        """Send what is buffered and close."""
        if self.transport is not None:
            self.transport.close()


class _Inside(_End):
    """The engine's side."""

    def __init__(self, outside: "_Outside") -> None:
        super().__init__()
        self.other = outside


class _Outside(_End):
    """The caller's side: a head with the token first."""

    def __init__(self, relay: Relay) -> None:
        super().__init__()
        self._relay = relay
        self._held = b""
        self._reaching: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._relay.connections.add(self)
        self._overdue = asyncio.get_running_loop().call_later(_HEAD_DEADLINE_S, self.end)

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            super().data_received(data)
            return
        self._held += data
        if self._reaching is None:
            self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._overdue.cancel()
        self._relay.connections.discard(self)
        super().connection_lost(exc)

    def _look(self) -> None:
        head, end, _ = self._held.partition(b"\r\n\r\n")
        if not end and len(self._held) <= _LONGEST_HEAD_BYTES:
            return
        self._overdue.cancel()
        if not end or not self._relay.is_allowed(head):
            self._refuse()
            return
        assert self.transport is not None
        # What the body holds beyond this waits in the kernel until the engine is there to take it.
        self.transport.pause_reading()
        self._reaching = asyncio.create_task(self._reach())

    def _refuse(self) -> None:
        assert self.transport is not None
        self.transport.write(_REFUSED)
        self.transport.close()

    async def _reach(self) -> None:
        inside = await self._relay.reach(self)
        assert self.transport is not None
        if inside is None or self.transport.is_closing():
            # Closed without a byte: the caller knows that nothing was begun.
            self.end()
            if inside is not None:
                inside.end()
            return
        self.other = inside
        super().data_received(self._held)
        self._held = b""
        self.transport.resume_reading()
