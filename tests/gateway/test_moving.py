"""Streams that go on at another replica: what may move, the stitches, and a real engine killed in mid-stream."""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.platform import SECRET, Platform, platform
from tests.weights import smollm2_gguf  # noqa: F401  # a fixture

from outpace.engines.registry import engine
from outpace.gateway.moving import (
    AGAIN_S,
    Again,
    Behind,
    Mover,
    Parted,
    Transcript,
    can_move,
    can_repeat,
    ending,
    tokens_left,
)
from outpace.gateway.openai.parse import parse_chat, parse_completion
from outpace.values.deployment import LaunchOrder
from outpace.values.records import Settled
from outpace.values.snapshot import ReplicaEntry
from outpace.values.usage import Usage

CHAT = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}


def chat(**fields: Any) -> Any:
    return parse_chat(json.dumps({**CHAT, **fields}).encode())


def event(delta: dict[str, Any], finish: str | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    known = {"id": "a", "created": 1, "model": "m", "object": "chat.completion.chunk", "choices": [choice]}
    return b"data: " + json.dumps(known | fields, separators=(",", ":")).encode() + b"\n\n"


def schema() -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}


@pytest.mark.parametrize(
    ("fields", "may"),
    [
        ({}, True),
        ({"temperature": 0}, True),
        ({"seed": 1}, True),
        ({"response_format": {"type": "text"}}, True),
        ({"stream": False}, False),
        ({"n": 2}, False),
        ({"logprobs": True}, False),
        ({"response_format": schema()}, False),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, False),
    ],
)
def test_plain_streams_of_one_choice_may_move(fields: dict[str, Any], may: bool) -> None:
    assert can_move(chat(**fields)) is may


@pytest.mark.parametrize(
    ("fields", "may"),
    [
        ({"temperature": 0}, True),
        ({"seed": 1, "temperature": 1}, True),
        ({"temperature": 0, "response_format": schema()}, True),
        ({"temperature": 0, "min_tokens": 3}, True),
        ({}, False),
        ({"temperature": 1}, False),
        ({"temperature": 0, "stream": False}, False),
        ({"temperature": 0, "n": 2}, False),
        ({"temperature": 0, "logprobs": True}, False),
        ({"temperature": 0, "tools": [{"type": "function", "function": {"name": "f"}}]}, False),
    ],
)
def test_greedy_and_seeded_streams_can_be_asked_for_again(fields: dict[str, Any], may: bool) -> None:
    assert can_repeat(chat(**fields)) is may


def test_only_what_was_quickly_said_is_said_again_and_only_until_it_parts() -> None:
    mover = Mover(chat(temperature=0))
    mover.stopped(10.0, 10.0 + AGAIN_S)
    assert mover.repeats
    mover.stopped(10.0, 10.1 + AGAIN_S)
    assert not mover.repeats
    mover.stopped(10.0, 10.1)
    assert mover.repeats
    mover.parted()
    assert not mover.repeats
    assert mover.continues


@pytest.mark.parametrize(
    ("prompt", "fields", "may"),
    [
        ("a", {}, True),
        ([1, 2], {}, True),
        (["a", "b"], {}, False),
        ("a", {"echo": True}, False),
        ("a", {"logprobs": 1}, False),
    ],
)
def test_so_may_completions_of_one_prompt(prompt: Any, fields: dict[str, Any], may: bool) -> None:
    body = {"model": "m", "prompt": prompt, "stream": True, **fields}
    assert can_move(parse_completion(json.dumps(body).encode())) is may


class Answering:
    """A reader that passes on what it is fed."""

    usage = Usage(prompt_tokens=9, completion_tokens=2, cached_tokens=8)
    finish_reason: str | None = "stop"
    is_complete = True

    def started(self, status: int, headers: Mapping[bytes, bytes]) -> None: ...

    def feed(self, piece: bytes) -> bytes:
        return piece

    def finished(self) -> bytes:
        return b""


def transcript(*outs: bytes) -> Transcript:
    made = Transcript()
    for out in outs:
        made.add(out)
    return made


def test_the_transcript_is_the_text_as_it_was_sent() -> None:
    made = transcript(
        event({"role": "assistant", "content": ""}),
        event({"content": 'a "quoted"\n'}) + event({"content": "\u00e9\U0001f600"}),
        event({"content": ' "content":"no'}),
    )
    assert made.text == 'a "quoted"\n\u00e9\U0001f600 "content":"no'
    assert made.is_whole
    assert not transcript(event({"reasoning_content": "hm"})).is_whole


def test_the_second_answer_follows_under_the_first_one_s_name() -> None:
    reader = Behind(Answering(), transcript(event({"role": "assistant", "content": "a"})), Usage(5, 3, 1))
    second: dict[str, Any] = {"id": "b", "created": 2}
    piece = b"".join(
        [
            event({"role": "assistant", "content": None}, **second),
            event({"content": " b"}, **second),
            event({}, "stop", **second),
            event({}, choices=[], usage={"prompt_tokens": 9}, **second),
            b"data: [DONE]\n\n",
        ]
    )
    *events, last, end = reader.feed(piece).split(b"\n\n")
    assert end == b""
    assert last == b"data: [DONE]"
    seen = [json.loads(each.removeprefix(b"data: ")) for each in events]
    assert {(each["id"], each["created"]) for each in seen} == {("a", 1)}
    assert [each["choices"][0]["delta"] for each in seen if each["choices"]] == [{"content": " b"}, {}]
    assert seen[-1]["usage"]["prompt_tokens"] == 5
    assert seen[-1]["usage"]["completion_tokens"] == reader.usage.completion_tokens == 5
    assert reader.usage.cached_tokens == 1


def again(said: str, before: Usage = Usage(5, 3, 1)) -> Again:
    head = transcript(event({"role": "assistant", "content": ""}), event({"content": said}))
    return Again(Answering(), head, before)


def news_of(out: bytes) -> list[str | None]:
    events = [json.loads(each[6:]) for each in out.split(b"\n\n") if each.startswith(b"data: {")]
    return [each["choices"][0]["delta"].get("content") for each in events]


@given(st.text(min_size=1), st.text(), st.lists(st.integers(0, 40)), st.lists(st.integers(0, 40)))
def test_an_answer_said_again_in_other_pieces_gives_only_what_is_new(
    said: str, more: str, cuts: list[int], joins: list[int]
) -> None:
    whole = said + more
    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    pieces = [event({"content": whole[a:b]}) for a, b in pairwise(edges)] + [event({}, "stop")]
    at = [0, *sorted(min(join, len(pieces)) for join in joins), len(pieces)]
    reader = again(said)
    out = reader.feed(event({"role": "assistant", "content": None}))
    out += b"".join(reader.feed(b"".join(pieces[a:b])) for a, b in pairwise(at)) + reader.finished()
    assert "".join(text or "" for text in news_of(out)) == more
    assert out.count(b'"finish_reason":"stop"') == 1


@pytest.mark.parametrize(
    "events",
    [
        event({"content": "ab"}) + event({"content": "d"}),
        event({"content": "abx"}),
        event({"content": "ab"}) + event({}, "stop"),
    ],
    ids=["another word", "another end", "an early end"],
)
def test_an_answer_that_parts_gives_nothing(events: bytes) -> None:
    with pytest.raises(Parted):
        again("abc").feed(events)


def test_an_answer_that_breaks_off_while_said_again_has_parted() -> None:
    reader = again("abc")
    assert reader.feed(event({"content": "ab"})) == b""
    with pytest.raises(Parted):
        reader.finished()


def test_usage_never_falls_behind_what_the_client_got() -> None:
    assert again("abc", Usage(5, 3, 1)).usage == Usage(5, 3, 1)
    ahead = again("abc", Usage(5, 1, 1)).usage
    assert (ahead.prompt_tokens, ahead.completion_tokens, ahead.cached_tokens) == (5, 2, 1)


def test_a_stream_that_lacked_only_its_end_gets_it_without_an_engine() -> None:
    request = chat(max_tokens=3, stream_options={"include_usage": True})
    assert tokens_left(request, 3) == 0
    said = transcript(event({"content": "a"}))
    raw = ending(request, said, Usage(5, 3), None)
    finish, usage, done, _ = raw.split(b"\n\n")
    assert json.loads(finish[6:])["choices"][0]["finish_reason"] == "length"
    assert json.loads(usage[6:])["usage"]["completion_tokens"] == 3
    assert done == b"data: [DONE]"
    assert b"finish_reason" not in ending(chat(), said, Usage(5, 3), "stop")


# -- a real engine


@pytest.fixture
async def two(tmp_path: Path, smollm2_gguf: Path) -> AsyncIterator[Platform]:  # noqa: F811
    async with two_replicas(tmp_path, smollm2_gguf, {}) as made:
        yield made


@asynccontextmanager
async def two_replicas(tmp_path: Path, gguf: Path, second: dict[str, Any]) -> AsyncIterator[Platform]:
    """Two llama.cpp replicas of one model behind a worker; `second` are settings of the second one."""
    with platform(tmp_path) as made:
        made.add_key()
        replicas = [start_llama(made, "one", gguf), start_llama(made, "two", gguf, second)]
        made.deploy("m", [], engine="llamacpp", replicas=tuple(replicas), context_tokens=2_048)
        made.publish()
        made.start_worker()
        async with asyncio.timeout(60):
            while not all(Path(each.address.removeprefix("unix:")).exists() for each in replicas):
                await asyncio.sleep(0.05)
        await wait_until_answering(made)
        yield made


def start_llama(
    made: Platform, name: str, gguf: Path, settings: dict[str, Any] | None = None
) -> ReplicaEntry:
    order = LaunchOrder(
        replica_id=name, deployment="m", model="m", artifact_path=str(gguf), tasks=("chat", "completions"),
        context_tokens=2_048, parallel=2, threads=1, socket_dir=str(made.home.sockets), token="t" * 32,
        engine_settings=settings or {},
    )  # fmt: skip
    launch = engine("llamacpp").launch(order)
    # Not among `engines`: those are asked for echo's statistics.
    made.workers.append(subprocess.Popen(launch.argv, env={**os.environ, **launch.env}))
    return ReplicaEntry(id=name, address=launch.address, token=launch.token)


async def wait_until_answering(made: Platform) -> None:
    async with asyncio.timeout(60), aiohttp.ClientSession() as client:
        while True:
            try:
                status, _ = await ask(made, client, max_tokens=1)
            except aiohttp.ClientError:
                status = 0
            if status == 200:
                return
            await asyncio.sleep(0.1)


async def ask(
    made: Platform,
    client: aiohttp.ClientSession,
    *,
    kills: str | None = None,
    kills_at: int = 12,
    **fields: Any,
) -> tuple[int, list[dict[str, Any]]]:
    """The events of one stream; `kills` is a replica that ends after `kills_at` of them."""
    body = {
        "model": "m", "temperature": 0, "max_tokens": 48, "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": "Tell me about the sea."}],
    }  # fmt: skip
    headers = {"authorization": f"Bearer {SECRET}"}
    events: list[dict[str, Any]] = []
    url = made.url + "/v1/chat/completions"
    async with client.post(url, json=body | fields, headers=headers) as answer:
        async for line in answer.content:
            if line.startswith(b"data: {"):
                events.append(json.loads(line[6:]))
            if kills and len(events) == kills_at:
                kill(made, kills)
                kills = None
        return answer.status, events


def kill(made: Platform, replica: str) -> None:
    (process,) = [
        each for each in made.workers if f'"{replica}.' in str(each.args) or f"/{replica}." in str(each.args)
    ]
    process.kill()
    process.wait()


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(c["delta"].get("content") or "" for each in events for c in each.get("choices", ()))


# Long enough that no engine is done before the kill.
_LONG: dict[str, Any] = {"max_tokens": 200, "ignore_eos": True}


async def long_ones(made: Platform, count: int) -> list[Settled]:
    """Settlements of the long answers, as soon as there are `count`; the replicas were asked for short ones before."""
    async with asyncio.timeout(10):
        while True:
            found = [each for each in await made.settled(count) if each.usage.completion_tokens == 200]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.02)


async def test_a_stream_goes_on_when_its_replica_is_killed(two: Platform) -> None:
    async with aiohttp.ClientSession() as client:
        status, undisturbed = await ask(two, client, **_LONG)
        assert status == 200
        (first,) = await long_ones(two, 1)
        # The same conversation has the same home.
        status, events = await ask(two, client, kills=first.replica, **_LONG)
        receipt = (await long_ones(two, 2))[-1]
    assert status == 200
    assert text_of(events) == text_of(undisturbed)
    assert events[-1]["usage"] == undisturbed[-1]["usage"] | {
        "prompt_tokens_details": events[-1]["usage"]["prompt_tokens_details"]
    }
    assert len({each["id"] for each in events}) == 1
    assert [each["choices"][0]["finish_reason"] for each in events if each["choices"]].count("length") == 1
    assert receipt.usage.completion_tokens == 200
    assert (receipt.outcome, receipt.attempts) == ("completed", 2)
    assert receipt.serving is not None
    assert receipt.serving.moves == 1


async def long_text(two: Platform, **fields: Any) -> tuple[str, str, Settled]:
    """A long answer undisturbed and with its replica killed, and the receipt of the second."""
    async with aiohttp.ClientSession() as client:
        _, undisturbed = await ask(two, client, **_LONG, **fields)
        (first,) = await long_ones(two, 1)
        _, events = await ask(two, client, kills=first.replica, **_LONG, **fields)
        receipt = (await long_ones(two, 2))[-1]
    return text_of(undisturbed), text_of(events), receipt


async def test_a_seeded_stream_goes_on_with_the_same_draws(two: Platform) -> None:
    undisturbed, moved, receipt = await long_text(two, temperature=0.8, seed=7)
    assert moved == undisturbed
    assert receipt.serving is not None
    assert receipt.serving.moves == 1


async def test_a_stream_that_draws_freely_goes_on_behind_its_text(two: Platform) -> None:
    _, moved, receipt = await long_text(two, temperature=0.8)
    assert len(moved) > 200
    assert (receipt.outcome, receipt.usage.completion_tokens) == ("completed", 200)


async def test_a_structured_stream_goes_on_as_well(two: Platform) -> None:
    shape = {
        "type": "object",
        "required": ["words"],
        "properties": {
            "words": {"type": "array", "minItems": 12, "items": {"type": "string", "maxLength": 8}}
        },
    }
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": shape}}
    async with aiohttp.ClientSession() as client:
        _, undisturbed = await ask(two, client, response_format=form, max_tokens=400)
        first = (await two.settled(2))[-1]
        _, events = await ask(two, client, kills=first.replica, response_format=form, max_tokens=400)
    assert text_of(events) == text_of(undisturbed)
    assert not any("error" in each for each in events)


async def test_what_parts_when_it_is_said_again_goes_on_behind_its_text(
    tmp_path: Path,
    smollm2_gguf: Path,  # noqa: F811
) -> None:
    coarse = {"cache_type_k": "q4_0", "cache_type_v": "q4_0", "flash_attention": "on"}
    async with two_replicas(tmp_path, smollm2_gguf, coarse) as made, aiohttp.ClientSession() as client:
        drawn = {**_LONG, "temperature": 1, "seed": 7}
        await ask(made, client, **drawn)
        (first,) = await long_ones(made, 1)
        _, events = await ask(made, client, kills=first.replica, kills_at=40, **drawn)
        receipt = (await long_ones(made, 2))[-1]
    assert (receipt.outcome, receipt.usage.completion_tokens) == ("completed", 200)
    assert receipt.serving is not None
    assert receipt.serving.moves == 1
    # One that died, one that parted, one behind the text; a kept connection that was closed meanwhile is one more.
    assert receipt.attempts >= 3
    assert not any("error" in each for each in events)
