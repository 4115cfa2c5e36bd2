"""A real worker, a real engine process, no control: answers, faults, money and ends."""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import openai
import pytest
from tests.gateway.platform import PRICE, SECRET, Platform, echo_platform, platform

from outpace.values.records import Progressed, Refused, Reserved, Serving
from outpace.values.snapshot import VariantEntry

CHAT = "/v1/chat/completions"


@pytest.fixture
async def echo(tmp_path: Path) -> AsyncIterator[Platform]:
    async with echo_platform(tmp_path) as made:
        yield made


@pytest.fixture
async def client(echo: Platform) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        api_key=SECRET, base_url=echo.url + "/v1", max_retries=0, timeout=20
    ) as made:
        yield made


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def body(text: str, **fields: object) -> bytes:
    return json.dumps({"model": "echo", "messages": user(text), **fields}).encode()


def request_bytes(payload: bytes, key: str = SECRET, path: str = CHAT) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {len(payload)}\r\n\r\n"
    return head.encode() + payload


async def post(echo: Platform, payload: bytes, key: str = SECRET) -> tuple[int, dict[str, Any], Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(echo.url + CHAT, data=payload, headers={"authorization": f"Bearer {key}"}) as answer,
    ):
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return answer.status, headers, await answer.json()


async def known(made: Platform, key: str, *, is_good: bool = True) -> None:
    """Return when every worker knows the key (or knows it no more): ten fresh connections in a row agree."""
    agreed = 0
    async with asyncio.timeout(10):
        while agreed < 10:
            headers = {"authorization": f"Bearer {key}"}
            async with (
                aiohttp.ClientSession() as session,
                session.get(made.url + "/v1/models", headers=headers) as got,
            ):
                agreed = agreed + 1 if (got.status == 200) is is_good else 0
            await asyncio.sleep(0 if agreed else 0.05)


# -- answers


async def test_the_official_sdk_gets_every_kind_of_answer(echo: Platform, client: openai.AsyncOpenAI) -> None:
    chat = await client.chat.completions.create(model="echo", messages=user("one two three"))
    assert chat.choices[0].message.content == "one two three"
    assert chat.usage is not None
    assert (chat.usage.prompt_tokens, chat.usage.completion_tokens) == (3, 3)

    stream = await client.chat.completions.create(
        model="echo", messages=user("one two three"), stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "one two three"
    )
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 6
    assert len({chunk.id for chunk in chunks}) == 1

    text = await client.completions.create(model="echo", prompt=["a b", "c d"], max_tokens=2)
    assert [choice.index for choice in text.choices] == [0, 1]
    vectors = await client.embeddings.create(model="echo", input=["a", "b"])
    assert len(vectors.data) == 2
    assert [model.id async for model in client.models.list()] == ["echo"]
    assert (await client.models.retrieve("echo")).owned_by == "test"
    assert (await echo.stats())["requests"] == 4  # one engine call per request, none for models


async def test_every_answer_names_its_receipt_and_what_it_cost(echo: Platform) -> None:
    status, headers, _ = await post(echo, body("one two", max_tokens=5))
    assert status == 200
    (settled,) = await echo.settled(1)
    assert settled.request_id == headers["x-request-id"]
    assert settled.cost_pusd == 2 * PRICE.input_pusd + 5 * PRICE.output_pusd
    async with asyncio.timeout(5):
        while echo.counters.spent(0) != settled.cost_pusd:
            await asyncio.sleep(0.01)
    assert echo.counters.reserved(0) == 0


@pytest.mark.parametrize(
    ("path", "method", "status", "code"),
    [
        ("/v1/nothing", "POST", 404, "not_found"),
        ("//v1/models", "GET", 404, "not_found"),
        ("/v1/models/", "GET", 404, "model_not_found"),
        ("/V1/Models", "GET", 404, "not_found"),
        ("/v1/models;x", "GET", 404, "not_found"),
        ("/v1/models/..%2f..%2fetc", "GET", 404, "model_not_found"),
        (CHAT, "GET", 405, "method_not_allowed"),
        ("/v1/models", "DELETE", 405, "method_not_allowed"),
    ],
)
async def test_unknown_paths_and_methods_answer_in_the_envelope(
    echo: Platform, path: str, method: str, status: int, code: str
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", echo.port)
    writer.write(
        f"{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {SECRET}\r\n"
        "connection: close\r\ncontent-length: 0\r\n\r\n".encode()
    )
    raw = await reader.read()
    writer.close()
    assert raw.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"x-request-id: " in raw
    assert json.loads(raw.split(b"\r\n\r\n", 1)[1])["error"]["code"] == code


async def test_pipelined_requests_are_authorised_each_by_itself(echo: Platform) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", echo.port)
    good, bad = request_bytes(body("hello")), request_bytes(body("hello"), key="wrong")
    writer.write(good + bad + good.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1))
    raw = await reader.read()
    writer.close()
    assert re.findall(rb"HTTP/1.1 (\d+) ", raw) == [b"200", b"401", b"200"]


# -- clients that leave


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_the_engine_within_a_second(echo: Platform, stream: bool) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", echo.port)
    writer.write(request_bytes(body("echo:token_interval_ms=50 a b", max_tokens=1_000, stream=stream)))
    async with asyncio.timeout(5):
        while not (await echo.stats())["running"]:
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)
    writer.close()
    async with asyncio.timeout(1.5):
        while (await echo.stats())["running"]:
            await asyncio.sleep(0.02)
    (settled,) = await echo.settled(1)
    assert (settled.outcome, settled.status) == ("cancelled", 499)
    if stream:
        assert 0 < settled.usage.completion_tokens < 30
        assert settled.cost_pusd == echo.counters.spent(0) > 0
    else:
        assert settled.cost_pusd == echo.counters.spent(0) == 0  # no byte, no charge
    assert echo.counters.reserved(0) == 0


async def test_a_half_closed_client_still_gets_its_answer(echo: Platform) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", echo.port)
    writer.write(request_bytes(body("echo:delay_ms=100 hello")))
    writer.write_eof()
    raw = await reader.read()
    writer.close()
    assert raw.startswith(b"HTTP/1.1 200")


# -- engines that fail


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [("echo:garbage x", 502, "upstream_error"), ("echo:error_status=503 x", 503, "overloaded")],
)
async def test_an_engine_that_answers_nonsense_is_translated(
    echo: Platform, text: str, status: int, code: str
) -> None:
    got, _, answer = await post(echo, body(text))
    assert (got, answer["error"]["code"]) == (status, code)
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    (settled,) = await echo.settled(1)
    assert settled.cost_pusd == 0
    assert (await post(echo, body("next")))[0] == 200


async def test_a_stream_that_breaks_ends_with_an_error_in_it(
    echo: Platform, client: openai.AsyncOpenAI
) -> None:
    stream = await client.chat.completions.create(
        model="echo", messages=user("echo:drop_after_tokens=3 a b c d e f"), stream=True
    )
    words: list[str | None] = []

    async def read() -> None:
        async for chunk in stream:
            words.append(chunk.choices[0].delta.content)

    with pytest.raises(openai.APIError):
        await read()
    assert len([word for word in words if word]) == 3
    (settled,) = await echo.settled(1)
    assert (settled.outcome, settled.usage.completion_tokens) == ("failed", 3)


async def test_an_engine_killed_before_its_first_token_is_replaced_by_another(tmp_path: Path) -> None:
    with platform(tmp_path) as made:
        made.add_key()
        made.deploy("echo", [made.start_engine("a"), made.start_engine("b")])
        made.publish()
        made.start_worker()
        await made.wait_until_up()
        made.engines["a"].kill()
        made.engines["a"].wait()
        statuses = [(await post(made, body("hello")))[0] for _ in range(6)]
        assert statuses == [200] * 6
        assert [settled.outcome for settled in await made.settled(6)] == ["completed"] * 6


async def test_without_any_engine_the_answer_is_quick_and_says_when_to_retry(echo: Platform) -> None:
    echo.engines["echo"].kill()
    echo.engines["echo"].wait()
    status, headers, answer = await post(echo, body("hello"))
    assert status == 502
    assert "retry-after" in headers
    assert answer["error"]["type"] == "server_error"
    assert echo.counters.reserved(0) == 0


async def test_a_deployment_that_failed_says_why(echo: Platform) -> None:
    echo.deploy("down", [], state="failed", reason="weights are corrupt")
    echo.publish()
    async with asyncio.timeout(5):
        while (await post(echo, body("x").replace(b'"echo"', b'"down"')))[0] == 404:
            await asyncio.sleep(0.05)
    status, _, answer = await post(echo, body("x").replace(b'"echo"', b'"down"'))
    assert status == 503
    assert "weights are corrupt" in answer["error"]["message"]


# -- keys and money


async def test_a_revoked_key_is_refused_everywhere_within_seconds(tmp_path: Path) -> None:
    async with echo_platform(tmp_path, workers=2) as made:
        assert (await post(made, body("hello")))[0] == 200
        made.keys.clear()
        made.publish()
        await known(made, SECRET, is_good=False)
        statuses = {(await post(made, body("hello")))[0] for _ in range(8)}
        assert statuses == {401}


async def test_two_hundred_at_once_with_money_for_five(tmp_path: Path) -> None:
    async with echo_platform(tmp_path, workers=2) as made:
        payload = body("echo:delay_ms=3000 hi", max_tokens=10)
        made.add_key("op-poor", budget_pusd=1)
        made.publish()
        await known(made, "op-poor")
        _, _, refusal = await post(made, payload, key="op-poor")
        assert refusal["error"]["code"] == "insufficient_quota"
        worst_pusd = await _worst_case_pusd(made, payload)
        made.keys = {digest: key for digest, key in made.keys.items() if key.name != "op-poor"}
        made.add_key("op-five", budget_pusd=5 * worst_pusd, slot=9)
        made.publish()
        await known(made, "op-five")
        answers = await asyncio.gather(*(post(made, payload, key="op-five") for _ in range(200)))
        assert sorted(status for status, _, _ in answers) == [200] * 5 + [429] * 195
        refused = next(headers for status, headers, _ in answers if status == 429)
        assert refused["x-should-retry"] == "false"
        async with asyncio.timeout(5):
            while made.counters.reserved(9):  # settled right after the answer
                await asyncio.sleep(0.01)
        assert 0 < made.counters.spent(9) <= 5 * worst_pusd


async def _worst_case_pusd(made: Platform, payload: bytes) -> int:
    await post(made, payload)
    opened = [record for record in made.records() if isinstance(record, Reserved)]
    key = made.add_key("op-rich", budget_pusd=10**15, slot=7)
    made.publish()
    await known(made, "op-rich")
    await post(made, payload, key="op-rich")
    opened = [record for record in made.records() if isinstance(record, Reserved) and record.key_id == key.id]
    return opened[-1].reserved_pusd


async def test_without_max_tokens_the_answer_ends_where_the_money_does(tmp_path: Path) -> None:
    async with echo_platform(tmp_path, tokens=5_000) as made:
        made.add_key("op-little", budget_pusd=1_000_000, slot=3)
        made.publish()
        await known(made, "op-little")
        status, _, answer = await post(made, body("hello"), key="op-little")
        assert status == 200
        assert answer["choices"][0]["finish_reason"] == "length"
        assert made.counters.spent(3) <= 1_000_000


async def test_limits_per_minute_come_with_openais_headers(tmp_path: Path) -> None:
    async with echo_platform(tmp_path, workers=2) as made:
        made.add_key("op-slow", rpm=5, slot=4)
        made.publish()
        await known(made, "op-slow")
        answers = [await post(made, body("hello"), key="op-slow") for _ in range(8)]
        assert [status for status, _, _ in answers] == [200] * 5 + [429] * 3
        assert [int(headers["x-ratelimit-remaining-requests"]) for _, headers, _ in answers[:5]] == [
            4,
            3,
            2,
            1,
            0,
        ]
        _, headers, answer = answers[-1]
        assert answer["error"]["type"] == "requests"
        assert 0 < float(headers["retry-after"]) <= 60
        assert headers["x-ratelimit-limit-requests"] == "5"


async def test_an_unpriced_model_is_never_free_for_a_key_with_a_budget(echo: Platform) -> None:
    echo.add_key("op-budget", budget_pusd=10**12)
    echo.deploy("unpriced", [echo.deployments["echo"].replicas[0].address], price=None)
    echo.publish()
    await known(echo, "op-budget")
    payload = body("hello").replace(b'"echo"', b'"unpriced"')
    assert (await post(echo, payload))[0] == 200
    status, _, answer = await post(echo, payload, key="op-budget")
    assert (status, answer["error"]["code"]) == (403, "price_missing")
    (settled,) = await echo.settled(1)
    assert settled.cost_pusd is None


async def test_refusals_are_counted_and_no_secret_is_written_anywhere(echo: Platform) -> None:
    for _ in range(50):
        await post(echo, body("my private words"), key="wrong-secret")
    await post(echo, body("my private words", temperature=9))
    async with asyncio.timeout(5):
        while sum(r.count for r in echo.records() if isinstance(r, Refused)) < 51:
            await asyncio.sleep(0.05)
    assert len([r for r in echo.records() if isinstance(r, Refused)]) < 10
    echo.workers[0].terminate()
    assert echo.workers[0].stderr is not None
    said = echo.workers[0].stderr.read() + b"".join(p.read_bytes() for p in echo.home.journal.iterdir())
    assert b"private" not in said
    assert b"wrong-secret" not in said
    assert SECRET.encode() not in said


# -- ends


async def test_sigterm_finishes_running_streams_and_exits_cleanly(
    echo: Platform, client: openai.AsyncOpenAI
) -> None:
    stream = await client.chat.completions.create(
        model="echo", messages=user("echo:token_interval_ms=20 a b"), max_tokens=40, stream=True
    )
    first = await anext(aiter(stream))
    echo.workers[0].terminate()
    rest = [chunk async for chunk in stream]
    assert first.choices
    assert rest[-1].choices[0].finish_reason == "length"
    assert await asyncio.to_thread(echo.workers[0].wait, 10) == 0
    assert (await echo.settled(1))[0].outcome == "completed"


async def test_a_killed_worker_leaves_a_mark_to_bill_and_another_worker_goes_on(tmp_path: Path) -> None:
    async with echo_platform(tmp_path) as made:
        made.add_key("op-budget", budget_pusd=10**12, slot=5)
        made.publish()
        await known(made, "op-budget")
        _, writer = await asyncio.open_connection("127.0.0.1", made.port)
        payload = body("echo:token_interval_ms=10 a b", max_tokens=5_000, stream=True)
        writer.write(request_bytes(payload, key="op-budget"))
        async with asyncio.timeout(10):
            while not any(isinstance(r, Progressed) and r.completion_tokens > 60 for r in made.records()):
                await asyncio.sleep(0.02)
        made.workers[0].send_signal(signal.SIGKILL)
        made.workers[0].wait()
        writer.close()
        made.start_worker()
        await made.wait_until_up()
        assert (await post(made, body("hello")))[0] == 200
        assert made.counters.reserved(5) > 0  # held until control recovers the dead worker's journal


async def test_the_receipt_says_which_formats_served_and_whether_they_are_proven(echo: Platform) -> None:
    variant = VariantEntry(
        id="echo/q4_0/q8_0", engine="echo", engine_model="echo", precision="q4_0", kv_precision="q8_0",
        engine_version="echo 1", is_proven=False,
    )  # fmt: skip
    known = echo.deployments["echo"]
    replicas = tuple(msgspec.structs.replace(replica, variant=variant.id) for replica in known.replicas)
    echo.deployments["echo"] = msgspec.structs.replace(known, replicas=replicas, variants=(variant,))
    echo.publish()
    served = None
    for count in range(1, 200):
        await post(echo, body("one", max_tokens=1))
        served = (await echo.settled(count))[-1].serving
        if served is not None:
            break
        await asyncio.sleep(0.05)
    assert served == Serving(
        variant="echo/q4_0/q8_0", engine_version="echo 1", precision="q4_0", kv_precision="q8_0",
        is_proven=False,
    )  # fmt: skip
