"""A door on an ephemeral port with an app of the test's, and a client that speaks bytes."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from uvicorn import Config
from uvicorn.server import ServerState

from outpace.gateway.door import Cycle, DoorLimits, door
from outpace.gateway.door_cycle import refusal_headers
from outpace.gateway.openai.errors import error_body
from outpace.values.errors import OutpaceError

App = Callable[[Cycle], Awaitable[None]]
JSON = [(b"content-type", b"application/json"), (b"x-request-id", b"req-test")]
PATIENCE_S = 5.0

# Deadlines that a test can wait for, and no other limit in the way.
QUICK = DoorLimits(
    header_deadline_s=0.2,
    body_grace_s=0.2,
    body_min_bytes_per_s=1_000,
    body_deadline_s=0.6,
    idle_s=0.2,
    write_stall_s=0.3,
    linger_s=0.2,
    half_close_s=0.1,
    half_close_again_s=0.2,
)


class Rig:
    """The door under test."""

    def __init__(self, port: int, state: ServerState, kind: Any) -> None:
        self.port = port
        self.server_state = state
        self.door_state = kind.state
        self._peers: list[Peer] = []

    async def connect(self) -> "Peer":
        """A new connection."""
        peer = Peer(*await asyncio.open_connection("127.0.0.1", self.port))
        self._peers.append(peer)
        return peer

    async def exchange(self, request: bytes) -> bytes:
        """Everything that the door sends on a connection of its own until it closes."""
        peer = await self.connect()
        peer.send(request)
        try:
            return await peer.rest()
        finally:
            peer.close()

    async def close_peers(self) -> None:
        """Close what a test left open, also when it failed."""
        for peer in self._peers:
            peer.close()
        for peer in self._peers:
            with contextlib.suppress(OSError):
                await peer.writer.wait_closed()

    async def until_empty(self) -> None:
        """Return when every connection and task is gone."""
        async with asyncio.timeout(PATIENCE_S):
            while self.server_state.connections or self.server_state.tasks:
                await asyncio.sleep(0.005)


class Peer:
    """A client that sends what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, octets: bytes) -> None:
        self.writer.write(octets)

    async def answer(self) -> tuple[int, bytes, bytes]:
        """Status, head and body of one answer with a length."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            return int(head.split()[1]), head, await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.read()

    def reset(self) -> None:
        """Leave without goodbye: the kernel sends a reset."""
        self.writer.transport.abort()

    def close(self) -> None:
        self.writer.close()


@contextlib.asynccontextmanager
async def rig(app: App, limits: DoorLimits = QUICK) -> AsyncIterator[Rig]:
    """Serve `app` until the block ends; then nothing may be left."""

    async def asgi(scope: dict[str, Any], receive: object, send: object) -> None:
        await app(scope["outpace.cycle"])

    async with asgi_rig(asgi, limits) as served:
        yield served


@contextlib.asynccontextmanager
async def asgi_rig(app: Any, limits: DoorLimits = QUICK) -> AsyncIterator[Rig]:
    """The same for a plain ASGI app."""
    config = Config(app, ws="none", lifespan="off", log_config=None, proxy_headers=False)
    state, kind = ServerState(), door(limits)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: kind(config, state, {}, loop), "127.0.0.1", 0)
    served = Rig(server.sockets[0].getsockname()[1], state, kind)
    try:
        yield served
    finally:
        server.close()
        await served.close_peers()
        for connection in list(state.connections):
            connection.shutdown()
        await served.until_empty()


async def echo(cycle: Cycle) -> None:
    """Answers path, key and body."""
    try:
        body = await cycle.whole_body()
    except OutpaceError as error:
        cycle.respond(error.status, refusal_headers(error), error_body(error))
        return
    headers = dict(cycle.scope["headers"])
    seen = {
        "path": cycle.scope["raw_path"].decode(),
        "key": headers.get(b"authorization", b"").decode(),
        "body": (body or b"").decode("latin-1"),
    }
    cycle.respond(200, JSON, json.dumps(seen).encode())


def post(body: bytes, path: bytes = b"/", *fields: bytes) -> bytes:
    """A well-formed POST."""
    head = [b"POST " + path + b" HTTP/1.1", b"Host: test", b"Content-Length: %d" % len(body), *fields]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def refusal_of(raw: bytes) -> tuple[int, dict[str, Any]]:
    """Status and error of a refusal; asserts that it is one by the contract, and the last thing said."""
    head, _, body = raw.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert fields[b"content-type"] == b"application/json"
    assert fields[b"x-request-id"].startswith(b"req-")
    assert fields[b"connection"] == b"close"
    assert int(fields[b"content-length"]) == len(body)
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return int(head.split()[1]), error
