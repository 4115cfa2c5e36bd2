"""The engine leg against real sockets: reuse, races, cut answers, aborts."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from outpace.gateway.upstream import EnginePool, NothingReceived
from outpace.values.errors import EngineFailed, OutpaceError

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Collected:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.status = 0
        self.pieces: list[bytes] = []

    def head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self.status = status

    def piece(self, data: bytes) -> None:
        self.pieces.append(data)

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


class FakeEngine:
    """A server that follows a script per connection and counts what it saw."""

    def __init__(self, path: Path, script: Script) -> None:
        self.path = path
        self.connections = 0
        self._script = script

    async def __aenter__(self) -> "FakeEngine":
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    @property
    def pool(self) -> EnginePool:
        return EnginePool(f"unix:{self.path}", "token")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._script(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


async def ask(pool: EnginePool, *, fresh: bool = False) -> Collected:
    sink = Collected()
    exchange = await pool.start("/v1/x", b"{}", "req-1", sink, fresh=fresh)
    async with asyncio.timeout(5):
        await exchange.ended
    return sink


async def test_a_connection_is_reused_and_the_token_is_sent(tmp_path: Path) -> None:
    heads: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            heads.append(await read_request(reader))
            writer.write(ANSWER)

    async with FakeEngine(tmp_path / "s", script) as engine:
        pool = engine.pool
        assert [(await ask(pool)).body for _ in range(3)] == [b"ok"] * 3
        assert engine.connections == 1
        assert b"authorization: Bearer token" in heads[0]
        assert b"x-request-id: req-1" in heads[0]
        pool.close()


async def test_a_streamed_answer_arrives_piece_by_piece(tmp_path: Path) -> None:
    more = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await more.wait()
        writer.write(b"3\r\ntwo\r\n0\r\n\r\n")

    async with FakeEngine(tmp_path / "s", script) as engine:
        sink = Collected()
        exchange = await engine.pool.start("/", b"", "r", sink)
        async with asyncio.timeout(5):
            while not sink.pieces:
                await asyncio.sleep(0)
            assert not exchange.ended.done()
            more.set()
            await exchange.ended
        assert sink.body == b"onetwo"


async def test_a_kept_connection_that_closes_at_reuse_is_told_apart(tmp_path: Path) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(ANSWER)
        await read_request(reader)  # then hangs up without a byte

    async with FakeEngine(tmp_path / "s", script) as engine:
        pool = engine.pool
        await ask(pool)
        with pytest.raises(NothingReceived):
            await ask(pool)
        assert (await ask(pool, fresh=True)).body == b"ok"
        assert engine.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n",
        b"\x00\x01garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-le",
    ],
)
async def test_a_cut_or_foreign_answer_is_an_engine_failure(tmp_path: Path, answer: bytes) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)
        await writer.drain()

    async with FakeEngine(tmp_path / "s", script) as engine:
        with pytest.raises(EngineFailed) as caught:
            await ask(engine.pool)
        assert not isinstance(caught.value, NothingReceived)


async def test_an_engine_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NothingReceived):
        await ask(EnginePool(f"unix:{tmp_path / 'none'}", None))
    with pytest.raises(NothingReceived):
        await ask(EnginePool("http://127.0.0.1:1/v1", None))


async def test_an_abort_closes_the_connection_so_that_the_engine_stops(tmp_path: Path) -> None:
    gone = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await reader.read()
        gone.set()

    async with FakeEngine(tmp_path / "s", script) as engine:
        exchange = await engine.pool.start("/", b"", "r", Collected())
        exchange.abort(OutpaceError("left"))
        with pytest.raises(OutpaceError, match="left"):
            await exchange.ended
        async with asyncio.timeout(1):
            await gone.wait()


async def test_a_sink_that_refuses_ends_the_call_with_its_own_error(tmp_path: Path) -> None:
    class Refusing(Collected):
        def piece(self, data: bytes) -> None:
            raise EngineFailed("not JSON")

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(ANSWER)

    async with FakeEngine(tmp_path / "s", script) as engine:
        exchange = await engine.pool.start("/", b"", "r", Refusing())
        with pytest.raises(EngineFailed, match="not JSON"):
            await exchange.ended
