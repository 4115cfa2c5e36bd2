"""A client that ends its side may still be reading, or be gone: on both event loops, with real sockets."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from tests.gateway.door_rig import JSON, PATIENCE_S, echo, post, rig

from outpace.gateway.door import Cycle, DoorLimits

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
SSE = [(b"content-type", b"text/event-stream")]
# The limits as shipped: a client that is gone must be noticed within a second.
SHIPPED = DoorLimits()


@pytest.fixture(params=list(LOOPS.values()), ids=list(LOOPS))
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Runs a coroutine on one of the loops."""

    def on_loop(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(main, 3 * PATIENCE_S))

    return on_loop


Run = Callable[[Coroutine[Any, Any, None]], None]


def test_a_half_closed_client_gets_its_answer(run: Run) -> None:
    async def main() -> None:
        async with rig(echo, SHIPPED) as served:
            peer = await served.connect()
            peer.send(post(b"abc"))
            peer.writer.write_eof()
            assert (await peer.rest()).startswith(b"HTTP/1.1 200")
            peer.close()

    run(main())


def test_a_half_closed_client_gets_a_late_answer_after_interim_ones(run: Run) -> None:
    async def main() -> None:
        may_end = asyncio.Event()

        async def app(cycle: Cycle) -> None:
            await may_end.wait()
            cycle.respond(200, JSON, b"{}")

        async with rig(app, DoorLimits(half_close_s=0.05)) as served:
            peer = await served.connect()
            peer.send(post(b"abc"))
            peer.writer.write_eof()
            for _ in range(2):
                assert await peer.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 102 Processing\r\n\r\n"
            may_end.set()
            assert (await peer.answer())[0] == 200
            peer.close()

    run(main())


def test_a_half_closed_stream_gets_comments_and_its_end(run: Run) -> None:
    async def main() -> None:
        may_end = asyncio.Event()

        async def app(cycle: Cycle) -> None:
            cycle.start_stream(200, SSE)
            cycle.write_chunk(b"data: 1\n\n")
            await may_end.wait()
            cycle.end_stream(b"data: [DONE]\n\n")

        async with rig(app, DoorLimits(half_close_s=0.05)) as served:
            peer = await served.connect()
            peer.send(post(b""))
            peer.writer.write_eof()
            await peer.reader.readuntil(b": keep-alive\n\n\r\n")
            may_end.set()
            assert (await peer.rest()).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
            peer.close()

    run(main())


@pytest.mark.parametrize("is_streaming", [False, True], ids=["waiting", "streaming"])
def test_a_client_that_closed_is_noticed_within_a_second(run: Run, is_streaming: bool) -> None:
    async def main() -> None:
        running, lost = asyncio.Event(), asyncio.Event()

        async def app(cycle: Cycle) -> None:
            cycle.on_disconnect(lost.set)
            if is_streaming:
                cycle.start_stream(200, SSE)
                cycle.write_chunk(b"data: 1\n\n")
            running.set()
            await lost.wait()

        async with rig(app, SHIPPED) as served:
            raw = socket.create_connection(("127.0.0.1", served.port))
            raw.sendall(post(b""))
            await running.wait()
            if is_streaming:
                await asyncio.get_running_loop().run_in_executor(None, raw.recv, 65_536)
            # A full close, as a killed client's kernel does it: only a FIN goes out.
            raw.close()
            async with asyncio.timeout(1.0):
                await lost.wait()

    run(main())


def test_a_pipelining_client_may_half_close_too(run: Run) -> None:
    async def main() -> None:
        async with rig(echo, SHIPPED) as served:
            peer = await served.connect()
            peer.send(post(b"1") + post(b"2") + post(b"3"))
            peer.writer.write_eof()
            assert (await peer.rest()).count(b"HTTP/1.1 200") == 3
            peer.close()

    run(main())
