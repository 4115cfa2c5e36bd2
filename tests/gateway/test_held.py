"""Requests to a model that is not there yet: held, told, dropped, answered; and the signals that go with it."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.gateway.platform import SECRET, Platform, platform

from outpace.values import signals
from outpace.values.signals import CONTROL_SOCKET, Demand, SnapshotWritten, worker_socket

CHAT = "/v1/chat/completions"


@pytest.fixture
def asleep(tmp_path: Path) -> Iterator[Platform]:
    """A platform with one deployment at zero, whose engine runs but is not in the snapshot."""
    with platform(tmp_path) as made:
        made.add_key()
        made.start_engine()
        made.deploy("echo", [], state="sleeping", wakes=True, ready_in_s=7.0)
        made.publish()
        yield made


@pytest.fixture
async def up(asleep: Platform) -> Platform:
    asleep.start_worker()
    await asleep.wait_until_up()
    return asleep


@pytest.fixture
def control(asleep: Platform) -> Iterator[socket.socket]:
    """Control's end of the signals."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.setblocking(False)
        made.bind(str(asleep.home.sockets / CONTROL_SOCKET))
        yield made


def wake(made: Platform, *, tells: bool = False) -> None:
    made.deploy("echo", [f"unix:{made.home.sockets / 'echo.sock'}"])
    made.publish()
    if tells:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            datagram = signals.encode(SnapshotWritten(version=made.version))
            sender.sendto(datagram, str(made.home.sockets / worker_socket(0)))


@contextlib.asynccontextmanager
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, headers={"authorization": f"Bearer {SECRET}"}
    ) as made:
        yield made


def question(text: str = "one two", **fields: object) -> dict[str, Any]:
    return {"model": "echo", "messages": [{"role": "user", "content": text}], **fields}


async def ask(
    made: Platform,
    client: aiohttp.ClientSession,
    headers: Mapping[str, str] | None = None,
    **fields: Any,
) -> tuple[int, Mapping[str, str], bytes]:
    async with client.post(made.url + CHAT, json=question(**fields), headers=headers) as answer:
        return answer.status, answer.headers, await answer.read()


async def demand_until(control: socket.socket, waiting: int) -> Demand:
    """The first demand with this many waiting."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10):
        while True:
            signal = signals.decode(await loop.sock_recv(control, 1 << 20))
            assert isinstance(signal, Demand)
            seen = signal.deployments.get("echo")
            if seen is not None and seen.waiting == waiting:
                return signal


async def test_a_held_request_wakes_control_and_is_answered_when_the_model_is_there(
    up: Platform, control: socket.socket
) -> None:
    async with session() as client:
        asking = asyncio.create_task(ask(up, client))
        demand = (await demand_until(control, 1)).deployments["echo"]
        assert demand.arrived == 1
        assert demand.waiting_tokens > 0
        wake(up, tells=True)
        status, _, raw = await asking
    assert status == 200
    assert json.loads(raw)["choices"][0]["message"]["content"] == "one two"
    (settled,) = await up.settled(1)
    assert settled.serving is not None
    assert 0 < settled.serving.held_s <= (settled.queue_s or 0)


async def test_a_thousand_callers_at_once_are_all_answered(up: Platform, control: socket.socket) -> None:
    async with session() as client:
        asking = [asyncio.create_task(ask(up, client)) for _ in range(1_000)]
        await demand_until(control, 1_000)
        wake(up, tells=True)
        answers = await asyncio.gather(*asking)
    assert {status for status, _, _ in answers} == {200}


async def test_a_deadline_that_passes_says_when_to_come_back(up: Platform) -> None:
    async with session() as client:
        for is_stream in (False, True):
            headers = {"x-outpace-deadline-ms": "150"}
            status, told, raw = await ask(up, client, headers, stream=is_stream)
            error = json.loads(raw)["error"]
            assert (status, error["code"]) == (503, "model_loading")
            assert 1 <= int(told["retry-after"]) <= 7
            assert "expected to answer in" in error["message"]
    assert up.counters.reserved(0) == 0


async def test_a_failed_start_is_told_to_everybody_who_waits(up: Platform, control: socket.socket) -> None:
    async with session() as client:
        asking = [asyncio.create_task(ask(up, client, stream=number % 2 == 0)) for number in range(6)]
        await demand_until(control, 6)
        up.deploy("echo", [], state="failed", reason="not enough memory")
        up.publish()
        answers = await asyncio.gather(*asking)
    assert {status for status, _, _ in answers} == {503}
    assert all(b"not enough memory" in raw for _, _, raw in answers)


async def test_a_caller_who_leaves_is_dropped_at_once(up: Platform, control: socket.socket) -> None:
    async with session() as client:
        asking = [asyncio.create_task(ask(up, client)) for _ in range(2)]
        await demand_until(control, 2)
        asking[0].cancel()
        await demand_until(control, 1)
        wake(up)
        assert (await asking[1])[0] == 200
    assert (await up.stats())["requests"] == 1


async def test_a_stream_that_waits_hears_that_it_is_not_forgotten(up: Platform) -> None:
    async with session() as client, client.post(up.url + CHAT, json=question(stream=True)) as answer:
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/event-stream"
        assert await answer.content.readuntil(b"\n\n") == b": keep-alive\n\n"
        wake(up)
        rest = await answer.read()
    assert rest.endswith(b"data: [DONE]\n\n")
    assert rest.count(b'"finish_reason":"stop"') == 1


async def test_a_stream_that_has_begun_gets_its_refusal_in_band(up: Platform) -> None:
    async with session() as client:
        headers = {"x-outpace-deadline-ms": "2300"}
        status, _, raw = await ask(up, client, headers, stream=True)
    assert status == 200
    comment, event = raw.split(b"\n\n", 1)
    assert comment == b": keep-alive"
    assert json.loads(event.removeprefix(b"data: "))["error"]["code"] == "model_loading"


async def test_an_answer_that_is_late_is_given_up_at_its_deadline(up: Platform) -> None:
    wake(up, tells=True)
    async with session() as client:
        headers = {"x-outpace-deadline-ms": "300"}
        text = "echo:token_interval_ms=50 a"
        status, _, raw = await ask(up, client, headers, text=text, max_tokens=1_000)
        assert (status, json.loads(raw)["error"]["code"]) == (504, "timeout")
        # A stream that began in time goes on.
        status, _, raw = await ask(up, client, headers, text=text, max_tokens=10, stream=True)
        assert status == 200
        assert raw.endswith(b"data: [DONE]\n\n")
        async with asyncio.timeout(2):
            while (await up.stats())["running"]:
                await asyncio.sleep(0.02)


async def test_a_deadline_in_the_past_is_refused_by_name(up: Platform) -> None:
    async with session() as client:
        status, _, raw = await ask(up, client, {"x-outpace-deadline-ms": "-1"})
    assert (status, json.loads(raw)["error"]["param"]) == (400, "x-outpace-deadline-ms")
    async with session() as client:
        status, _, raw = await ask(up, client, {"x-outpace-priority": "vip"})
    assert (status, json.loads(raw)["error"]["param"]) == (400, "x-outpace-priority")


async def test_garbage_on_the_socket_changes_nothing(up: Platform) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        for datagram in (b"", b"\xff" * 100, b"{}", b'{"type":"demand","worker":0}'):
            sender.sendto(datagram, str(up.home.sockets / worker_socket(0)))
    wake(up)
    async with session() as client:
        assert (await ask(up, client))[0] == 200
