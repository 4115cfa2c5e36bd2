"""The door before an engine on another machine: nothing gets through without the token."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.fleet.relay import Relay

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Engine:
    """Answers every request with `ok`, and remembers what it was sent."""

    def __init__(self) -> None:
        self.seen = b""
        self.is_cut = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65_536):
            self.seen += piece
            if piece.endswith(b"\r\n\r\n"):
                writer.write(_ANSWER)
        self.is_cut.set()
        writer.close()


@asynccontextmanager
async def _door(folder: Path) -> AsyncIterator[tuple[Engine, Relay, str, int]]:
    engine, relay = Engine(), Relay()
    path = folder / "e.sock"
    server = await asyncio.start_unix_server(engine.serve, path=path)
    address = await relay.open("127.0.0.1")
    relay.point(str(path), "secret")
    host, _, port = address.removeprefix("http://").rpartition(":")
    try:
        yield engine, relay, host, int(port)
    finally:
        relay.close()
        server.close()


def _request(*headers: str, path: str = "/health") -> bytes:
    lines = [f"GET {path} HTTP/1.1", "host: x", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _answer(host: str, port: int, *pieces: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    writer.write_eof()
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ("authorization: Bearer wrong",),
        ("authorization: Basic secret",),
        ("authorization: Bearer",),
        ("authorization: Bearer secret", "authorization: Bearer wrong"),
        ("authorization: Bearer secret", "Authorization: Bearer secret"),
        ("x-authorization: Bearer secret",),
    ],
)
async def test_without_the_one_right_token_not_even_health_is_reached(
    headers: tuple[str, ...], tmp_path: Path
) -> None:
    async with _door(tmp_path) as (engine, _, host, port):
        answer = await _answer(host, port, _request(*headers))
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert engine.seen == b""


async def test_with_the_token_bytes_pass_both_ways_and_the_connection_stays(tmp_path: Path) -> None:
    async with _door(tmp_path) as (engine, _, host, port):
        reader, writer = await asyncio.open_connection(host, port)
        first, second = _request("Authorization: Bearer secret"), _request(path="/v1/models")
        for piece in (first[:9], first[9:]):
            writer.write(piece)
            await writer.drain()
        async with asyncio.timeout(10):
            assert await reader.readexactly(len(_ANSWER)) == _ANSWER
            writer.write(second)
            assert await reader.readexactly(len(_ANSWER)) == _ANSWER
            writer.close()
            # The caller left: the engine must learn it at once, to stop its work.
            await engine.is_cut.wait()
        assert engine.seen == first + second


async def test_a_head_without_end_is_refused(tmp_path: Path) -> None:
    async with _door(tmp_path) as (engine, _, host, port):
        answer = await _answer(host, port, b"GET / HTTP/1.1\r\nx: " + b"y" * 20_000)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert engine.seen == b""


async def test_an_engine_that_does_not_listen_closes_without_a_byte(tmp_path: Path) -> None:
    async with _door(tmp_path) as (_, relay, host, port):
        relay.point(str(tmp_path / "none.sock"), "secret")
        assert await _answer(host, port, _request("authorization: Bearer secret")) == b""


async def test_before_it_is_pointed_nobody_gets_in(tmp_path: Path) -> None:
    relay = Relay()
    address = await relay.open("127.0.0.1")
    host, _, port = address.removeprefix("http://").rpartition(":")
    assert (await _answer(host, int(port), _request("authorization: Bearer "))).startswith(b"HTTP/1.1 401 ")
    relay.close()


@given(st.binary(max_size=300))
def test_no_head_of_whatever_kind_is_let_in_by_accident(head: bytes) -> None:
    relay = Relay()
    relay.point("/nowhere", "a-token-that-is-not-guessed")
    assert relay.is_allowed(head) is False
