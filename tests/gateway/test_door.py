"""The door with clients that behave: one write per answer, pipelining, streams, backpressure, shutdown."""

import asyncio
import json
import os
import signal
import socket

import uvicorn
from tests.gateway.door_rig import JSON, PATIENCE_S, QUICK, asgi_rig, echo, post, refusal_of, rig

from outpace.gateway.door import Cycle, DoorLimits, door


async def test_pipelined_requests_are_answered_in_order_each_by_its_own_key() -> None:
    async with rig(echo) as served:
        peer = await served.connect()
        peer.send(
            post(b"one", b"/a", b"Authorization: Bearer A")
            + post(b"two", b"/b", b"Authorization: Bearer B")
            + post(b"", b"/c")
        )
        seen = [json.loads((await peer.answer())[2]) for _ in range(3)]
        assert [(each["path"], each["key"], each["body"]) for each in seen] == [
            ("/a", "Bearer A", "one"),
            ("/b", "Bearer B", "two"),
            ("/c", "", ""),
        ]
        peer.close()


async def test_the_raw_path_reaches_the_app_untouched() -> None:
    async with rig(echo) as served:
        peer = await served.connect()
        for path in (b"//v1/models", b"/v1/./models", b"/%2e%2e/x", b"/v1/models/", b"/a;x", b"/a%2fb"):
            peer.send(post(b"", path + b"?q=1"))
            assert json.loads((await peer.answer())[2])["path"] == path.decode()
        peer.close()


async def test_a_body_in_many_pieces_arrives_whole() -> None:
    async with rig(echo) as served:
        peer = await served.connect()
        body = os.urandom(300_000)
        request = post(body)
        for start in range(0, len(request), 50_000):
            peer.send(request[start : start + 50_000])
            await asyncio.sleep(0)
        assert json.loads((await peer.answer())[2])["body"].encode("latin-1") == body
        peer.send(
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\n\r\n"
        )
        assert json.loads((await peer.answer())[2])["body"] == "abcde"
        peer.close()
        assert served.door_state.count_arriving(0) == 0


async def test_trailers_are_no_headers() -> None:
    async with rig(echo) as served:
        peer = await served.connect()
        peer.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        peer.send(b"0\r\nAuthorization: Bearer late\r\n\r\n")
        assert json.loads((await peer.answer())[2])["key"] == ""
        peer.close()


async def test_continue_is_sent_when_the_app_wants_the_body() -> None:
    async with rig(echo) as served:
        peer = await served.connect()
        peer.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert await peer.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        peer.send(b"abc")
        assert json.loads((await peer.answer())[2])["body"] == "abc"
        peer.close()


async def test_an_early_answer_keeps_the_connection_when_the_rest_of_the_body_is_small() -> None:
    async def refuse_at_once(cycle: Cycle) -> None:
        cycle.respond(401, JSON, b"{}")

    async with rig(refuse_at_once) as served:
        peer = await served.connect()
        for _ in range(2):
            peer.send(post(b"x" * 100)[:-50])
            assert (await peer.answer())[0] == 401
            peer.send(b"x" * 50)
        peer.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\nabc")
        status, head, _ = await peer.answer()
        assert status == 401
        assert b"connection: close" in head
        assert await peer.rest() == b""
        peer.close()


async def test_http_1_0_gets_an_answer_and_a_stream_without_chunks() -> None:
    async def stream(cycle: Cycle) -> None:
        if cycle.scope["raw_path"] == b"/":
            await echo(cycle)
            return
        cycle.start_stream(200, JSON)
        cycle.write_chunk(b"one")
        cycle.end_stream(b"two")

    async with rig(stream) as served:
        assert b"connection: close\r\n" in await served.exchange(b"GET / HTTP/1.0\r\n\r\n")
        answer = await served.exchange(b"GET /s HTTP/1.0\r\n\r\n")
        assert answer.endswith(b"\r\n\r\nonetwo")
        assert b"chunked" not in answer


async def test_the_first_chunk_travels_with_the_head() -> None:
    writes: list[bytes] = []

    async def stream(cycle: Cycle) -> None:
        line = cycle._line  # what the client cannot see: how many writes there were
        send = line.write

        def write(octets: bytes) -> None:
            writes.append(octets)
            send(octets)

        line.write = write  # type: ignore[method-assign]  # a spy
        cycle.start_stream(200, JSON)
        cycle.write_chunk(b"data: 1\n\n")
        cycle.end_stream(b"data: [DONE]\n\n")

    async with rig(stream) as served:
        peer = await served.connect()
        peer.send(post(b""))
        await peer.reader.readuntil(b"0\r\n\r\n")
        peer.close()
    assert len(writes) == 2
    assert writes[0].startswith(b"HTTP/1.1 200 OK\r\n")
    assert writes[0].endswith(b"9\r\ndata: 1\n\n\r\n")
    assert writes[1] == b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


async def test_head_requests_get_a_head_only() -> None:
    async with rig(echo) as served:
        peer = await served.connect()
        peer.send(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n" + post(b""))
        head = await peer.reader.readuntil(b"\r\n\r\n")
        assert b"content-length: 3" in head
        assert (await peer.answer())[0] == 200
        peer.close()


async def test_an_app_that_fails_or_says_nothing_still_answers() -> None:
    async def broken(cycle: Cycle) -> None:
        if cycle.scope["raw_path"] == b"/raise":
            raise ValueError("secret")

    async with rig(broken) as served:
        for path in (b"/raise", b"/silent"):
            peer = await served.connect()
            peer.send(post(b"", path))
            status, _, body = await peer.answer()
            assert status == 500
            assert b"secret" not in body
            peer.close()


async def test_plain_asgi_apps_work_too() -> None:
    events: list[str] = []

    async def app(scope: object, receive: object, send: object) -> None:
        assert callable(receive)
        assert callable(send)
        event = await receive()
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"Content-Length", b"3"), (b"a", b"b")],
            }
        )
        await send({"type": "http.response.body", "body": event["body"]})
        events.append((await receive())["type"])

    async with asgi_rig(app) as served:
        peer = await served.connect()
        peer.send(post(b"abc"))
        status, head, body = await peer.answer()
        assert (status, body) == (200, b"abc")
        assert head.lower().count(b"content-length") == 1
        peer.close()
    assert events == ["http.disconnect"]


async def test_a_stream_waits_for_a_slow_reader_and_cuts_a_stalled_one() -> None:
    written = 0
    lost = asyncio.Event()

    async def flood(cycle: Cycle) -> None:
        nonlocal written
        cycle.on_disconnect(lost.set)
        cycle.start_stream(200, JSON)
        while not cycle.is_disconnected:
            cycle.write_chunk(b"x" * 65_536)
            written += 65_536
            if cycle.is_paused:
                await cycle.drain()

    async with rig(flood) as served:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        raw.connect(("127.0.0.1", served.port))
        raw.sendall(post(b""))
        async with asyncio.timeout(PATIENCE_S):
            await lost.wait()
        raw.close()
    # What the kernel takes is a few megabytes; an unbounded writer would have made gigabytes.
    assert written < 64_000_000


async def test_a_slow_reader_gets_a_large_answer_whole() -> None:
    body = os.urandom(16_000_000)

    async def large(cycle: Cycle) -> None:
        cycle.keep_alive = False
        cycle.respond(200, JSON, body)

    async with rig(large, DoorLimits(write_stall_s=0.8, linger_s=0.1)) as served:
        loop = asyncio.get_running_loop()
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        raw.connect(("127.0.0.1", served.port))
        raw.setblocking(False)
        await loop.sock_sendall(raw, post(b""))
        got = bytearray()
        async with asyncio.timeout(3 * PATIENCE_S):
            while piece := await loop.sock_recv(raw, 65_536):
                got += piece
                await asyncio.sleep(0.005)
        raw.close()
    assert got.endswith(body)


async def test_sigterm_finishes_what_runs_and_closes_what_idles() -> None:
    is_running, may_end = asyncio.Event(), asyncio.Event()

    async def slow(scope: dict[str, Cycle], receive: object, send: object) -> None:
        is_running.set()
        await may_end.wait()
        scope["outpace.cycle"].respond(200, JSON, b"{}")

    limits = DoorLimits(linger_s=0.2)
    server = uvicorn.Server(
        uvicorn.Config(
            slow,
            http=door(limits),
            ws="none",
            lifespan="off",
            log_config=None,
            port=0,
        )
    )
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(PATIENCE_S):
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        idle_reader, idle = await asyncio.open_connection("127.0.0.1", port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(b""))
        await is_running.wait()
        server.handle_exit(signal.SIGTERM, None)
        server._captured_signals.clear()  # or uvicorn would end the test's own process with it
        assert await idle_reader.read() == b""
        may_end.set()
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer
        await serving
    for each in (idle, writer):
        each.close()


async def test_more_pipelined_requests_than_kept_end_the_connection_after_the_answers() -> None:
    limits = DoorLimits(max_pipelined=3, linger_s=0.1)
    async with rig(echo, limits) as served:
        raw = await served.exchange(b"".join(post(b"", b"/%d" % index) for index in range(50)))
        assert raw.count(b"HTTP/1.1 200") == 4
        assert raw.count(b"connection: close") == 1


async def test_an_error_behind_a_running_request_waits_for_its_turn() -> None:
    is_running, may_end = asyncio.Event(), asyncio.Event()

    async def slow(cycle: Cycle) -> None:
        is_running.set()
        await may_end.wait()
        cycle.respond(200, JSON, b"{}")

    async with rig(slow) as served:
        peer = await served.connect()
        peer.send(post(b"") + b"BROKEN\r\n\r\n")
        await is_running.wait()
        may_end.set()
        assert (await peer.answer())[0] == 200
        assert refusal_of(await peer.rest())[0] == 400
        peer.close()


async def test_idle_connections_are_closed() -> None:
    async with rig(echo, QUICK) as served:
        peer = await served.connect()
        peer.send(post(b""))
        assert (await peer.answer())[0] == 200
        assert await peer.rest() == b""
        silent = await served.connect()
        assert await silent.rest() == b""
        for each in (peer, silent):
            each.close()
