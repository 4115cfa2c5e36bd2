"""The door with clients that misbehave: each gets a named refusal, and the next client is served."""

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.gateway.door_rig import JSON, PATIENCE_S, QUICK, Rig, echo, post, refusal_of, rig

from outpace.gateway.door import Cycle, DoorLimits
from outpace.gateway.door_head import read_head
from outpace.values.errors import OutpaceError, RequestTimedOut

SMALL = DoorLimits(
    max_head_bytes=2_000,
    max_headers=20,
    max_target_bytes=500,
    max_body_bytes=10_000,
    max_chunks=50,
    linger_s=0.2,
    header_deadline_s=0.5,
    body_grace_s=0.5,
)


async def _others_are_served(served: Rig) -> None:
    peer = await served.connect()
    peer.send(post(b"hello"))
    assert (await peer.answer())[0] == 200
    peer.close()


BAD_HEADS = {
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "host with a path": b"GET / HTTP/1.1\r\nHost: evil/?\r\n\r\n",
    "host with user": b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
    "host with fragment": b"GET / HTTP/1.1\r\nHost: a#b\r\n\r\n",
    "empty host": b"GET / HTTP/1.1\r\nHost: \r\n\r\n",
    "absolute target": b"GET http://test/v1/models HTTP/1.1\r\nHost: test\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n",
    "connect": b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
    "nul in path": b"GET /a\x00b HTTP/1.1\r\nHost: a\r\n\r\n",
    "nul in header": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
    "not ascii": b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "http/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http/0.9": b"GET /\r\n\r\n",
    "http/2.0 in the request line": b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    "h2c": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    "websocket": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "folded header": b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nHost: a\n\n",
    "space before colon": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "list of lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc",
    "signed length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
    "length and chunks": (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "chunked twice": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "gzip and chunks": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "identity": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\nabc",
    "almost chunked": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunks over 1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "unknown expectation": b"POST / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\nContent-Length: 1\r\n\r\nx",
    "two content types": b"GET / HTTP/1.1\r\nHost: a\r\nContent-Type: a\r\nContent-Type: b\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", BAD_HEADS.values(), ids=BAD_HEADS.keys())
async def test_a_bad_head_is_400_and_never_reaches_the_app(request_bytes: bytes) -> None:
    reached: list[bytes] = []

    async def app(cycle: Cycle) -> None:
        reached.append(cycle.scope["raw_path"])
        cycle.respond(200, JSON, b"{}")

    async with rig(app, SMALL) as served:
        assert refusal_of(await served.exchange(request_bytes))[0] == 400
        assert reached == []
        await _others_are_served(served)


async def test_what_is_too_large_is_refused_by_its_own_status() -> None:
    async with rig(echo, SMALL) as served:
        many = b"".join(b"X-%d: y\r\n" % index for index in range(10_000))
        cases = [
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 1_000_000, 431),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 3_000 + b"\r\n\r\n", 431),
            (b"GET / HTTP/1.1\r\nHost: a\r\n" + many + b"\r\n", 431),
            (b"GET / HTTP/1.1\r\nHost: a\r\n" + many[:400] + b"\r\n", 431),
            (b"GET /" + b"a" * 600 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 404),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000000\r\n\r\n", 413),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx", 415),
        ]
        for request, status in cases:
            assert refusal_of(await served.exchange(request))[0] == status
        await _others_are_served(served)


async def test_a_body_without_length_is_refused_while_it_is_read() -> None:
    async with rig(echo, SMALL) as served:
        chunk = b"400\r\n" + b"x" * 0x400 + b"\r\n"
        head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert refusal_of(await served.exchange(head + chunk * 30))[0] == 413
        tiny = await served.exchange(head + b"1\r\nx\r\n" * 60)
        assert refusal_of(tiny)[1]["code"] == "request_too_large"
        assert served.door_state.count_arriving(0) == 0


async def test_endless_chunk_extensions_and_trailers_are_refused() -> None:
    async with rig(echo, SMALL) as served:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        for flood in (b"1;" + b"e" * 2_000_000, b"1\r\nx\r\n0\r\nT: " + b"t" * 2_000_000):
            assert refusal_of(await served.exchange(head + flood))[0] == 400


@pytest.mark.parametrize("chunk", [b"zz\r\n", b"-1\r\nx\r\n", b"f" * 20 + b"\r\n", b"1\r\nxyz\r\n"])
async def test_a_body_that_breaks_off_is_refused_through_the_app(chunk: bytes) -> None:
    async with rig(echo, SMALL) as served:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert refusal_of(await served.exchange(head + chunk))[0] == 400


async def test_slow_heads_get_408_while_others_are_served() -> None:
    async with rig(echo, QUICK) as served:
        slow = [await served.connect() for _ in range(50)]
        for peer in slow:
            peer.send(b"GET / HTTP/1.1\r\nHo")
        await _others_are_served(served)
        for peer in slow:
            assert refusal_of(await peer.rest())[0] == 408
            peer.close()


async def test_a_dripping_head_does_not_buy_time() -> None:
    async with rig(echo, QUICK) as served:
        peer = await served.connect()
        dripping = asyncio.create_task(_drip(peer.writer))
        assert refusal_of(await peer.rest())[0] == 408
        dripping.cancel()
        peer.close()


async def _drip(writer: asyncio.StreamWriter) -> None:
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
    while True:
        writer.write(b"x")
        await asyncio.sleep(0.02)


async def test_a_slow_body_gets_408_through_the_app() -> None:
    errors: list[OutpaceError] = []

    async def app(cycle: Cycle) -> None:
        try:
            await cycle.whole_body()
        except OutpaceError as error:
            errors.append(error)
        await echo(cycle)

    async with rig(app, QUICK) as served:
        raw = await served.exchange(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
        assert refusal_of(raw)[0] == 408
    assert [type(error) for error in errors] == [RequestTimedOut]


async def test_a_body_at_a_fair_rate_is_read_past_the_grace() -> None:
    async with rig(echo, QUICK) as served:
        peer = await served.connect()
        # 50 ms between pieces of 200 bytes: four times the least rate, longer than the grace in all.
        peer.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1600\r\n\r\n")
        for _ in range(8):
            peer.send(b"x" * 200)
            await asyncio.sleep(0.05)
        assert (await peer.answer())[0] == 200
        peer.close()


async def test_all_arriving_bodies_together_are_bounded() -> None:
    limits = DoorLimits(max_arriving_bytes=300_000, linger_s=0.2)
    async with rig(echo, limits) as served:
        peers = [await served.connect() for _ in range(8)]
        for peer in peers:
            peer.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n")
        for peer in peers:
            peer.send(b"x" * 100_000)
        answers = asyncio.gather(*(peer.reader.read(65_536) for peer in peers[:1]))
        for peer in peers[1:]:
            peer.send(b"x" * 100_000)
        async with asyncio.timeout(PATIENCE_S):
            while served.door_state.num_refused == 0:
                await asyncio.sleep(0.005)
        answers.cancel()
        for peer in peers:
            peer.reset()
        await served.until_empty()
        assert served.door_state.count_arriving(0) == 0


async def test_connections_above_the_limit_are_told_so() -> None:
    limits = DoorLimits(max_connections=3, linger_s=0.1)
    async with rig(echo, limits) as served:
        peers = [await served.connect() for _ in range(3)]
        for peer in peers:
            peer.send(post(b""))
            assert (await peer.answer())[0] == 200
        shed = await served.connect()
        status, error = refusal_of(await shed.rest())
        assert (status, error["code"]) == (503, "overloaded")
        for peer in (*peers, shed):
            peer.close()
        await served.until_empty()
        await _others_are_served(served)


async def test_a_client_that_resets_cancels_its_request() -> None:
    lost = asyncio.Event()
    running = asyncio.Event()

    async def app(cycle: Cycle) -> None:
        cycle.on_disconnect(lost.set)
        running.set()
        await lost.wait()
        cycle.respond(200, JSON, b"too late")
        assert cycle.is_disconnected

    async with rig(app) as served:
        peer = await served.connect()
        peer.send(post(b""))
        await running.wait()
        peer.reset()
        async with asyncio.timeout(PATIENCE_S):
            await lost.wait()


async def test_a_client_that_leaves_within_its_body_is_noticed() -> None:
    seen: list[bytes | None] = []

    async def app(cycle: Cycle) -> None:
        seen.append(await cycle.whole_body())

    async with rig(app) as served:
        peer = await served.connect()
        peer.send(post(b"whole")[:-2])
        peer.writer.write_eof()
        assert await peer.rest() == b""
        peer.close()
    assert seen == [None]


def _pieces(raw: bytes, cuts: list[int]) -> Iterator[bytes]:
    at = 0
    for cut in sorted({cut % (len(raw) + 1) for cut in cuts}):
        yield raw[at:cut]
        at = cut
    yield raw[at:]


@given(
    names=st.lists(st.tuples(st.binary(max_size=12), st.binary(max_size=30)), max_size=8),
    target=st.binary(max_size=40),
    version=st.sampled_from(["1.1", "1.0", "2.0", "0.9"]),
)
def test_no_head_gets_past_the_checks_in_any_other_way(
    names: list[tuple[bytes, bytes]], target: bytes, version: str
) -> None:
    # The parser lets only digits through as a length.
    headers = [(name.lower(), value) for name, value in names if name.lower() != b"content-length"]
    try:
        head = read_head(target, version, headers, SMALL)
    except OutpaceError:
        return
    assert head.raw_path.startswith(b"/")
    assert version == "1.0" or [name for name, _ in headers].count(b"host") == 1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    junk=st.binary(min_size=1, max_size=200),
    cuts=st.lists(st.integers(0, 400), max_size=4),
    is_appended=st.booleans(),
)
def test_arbitrary_bytes_end_in_an_envelope_or_a_close(
    junk: bytes, cuts: list[int], is_appended: bool
) -> None:
    raw = post(b"body") + junk if is_appended else junk

    async def talk() -> None:
        async with rig(echo, QUICK) as served:
            peer = await served.connect()
            for piece in _pieces(raw, cuts):
                peer.send(piece)
                await asyncio.sleep(0)
            peer.writer.write_eof()
            answer = await peer.rest()
            assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
            peer.close()

    asyncio.run(talk())
