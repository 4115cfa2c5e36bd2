"""Guessing ahead on the real engine: guesses are made, counted, and some are right. No speed is claimed."""

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.contract.conftest import entry
from tests.weights import made_artifacts

from outpace.engines.protocol import Engine, Hints
from outpace.engines.registry import engine
from outpace.engines.speculation import speculation_settings
from outpace.lab.load import LoadClient, Target
from outpace.lab.prompts import code_edit
from outpace.lab.replica import LabVariant, running
from outpace.values.clock import SystemClock
from outpace.values.requests import ChatRequest, UserMessage


async def test_openvino_takes_a_draft_model(smollm2_gguf: Path) -> None:
    variant = LabVariant(
        model="m",
        artifact_path=smollm2_gguf,
        context_tokens=1024,
        parallel=2,
        artifacts_dir=str(made_artifacts()),
        engine_settings=speculation_settings("openvino", "draft:itself", str(smollm2_gguf)),
    )
    adapter = engine("openvino")
    async with (
        running(adapter, variant, SystemClock()) as replica,
        LoadClient(
            Target(address=replica.address, model="m", token=replica.token, engine="openvino")
        ) as client,
    ):
        sample = await client.ask([{"role": "user", "content": code_edit(random.Random(3))}], 48, 0.0)
    assert sample.error is None
    assert sample.output_tokens == 48
    # How much it is asked is a matter of time: `test_openvino_guessing` shows what it says.
    assert sample.accepted_tokens <= sample.drafted_tokens


@pytest.mark.parametrize(("method", "tokens"), [("ngram", 72), ("draft:itself", 16)])
async def test_guesses_are_counted_and_some_are_right(smollm2_gguf: Path, method: str, tokens: int) -> None:
    settings = speculation_settings("llamacpp", method, str(smollm2_gguf))
    variant = LabVariant(
        model="m",
        artifact_path=smollm2_gguf,
        context_tokens=512,
        parallel=1,
        engine_settings=settings,
    )
    async with (
        running(engine("llamacpp"), variant, SystemClock()) as replica,
        LoadClient(Target(address=replica.address, model="m", token=replica.token)) as client,
    ):
        sample = await client.ask([{"role": "user", "content": code_edit(random.Random(3))}], tokens, 0.0)
    assert sample.error is None
    assert sample.output_tokens == tokens
    assert 0 < sample.accepted_tokens <= sample.drafted_tokens


async def test_openvino_is_told_per_request(smollm2_gguf: Path, tmp_path: Path) -> None:
    variant = LabVariant(
        model="m",
        artifact_path=smollm2_gguf,
        context_tokens=1024,
        parallel=2,
        artifacts_dir=str(tmp_path),
        engine_settings=speculation_settings("openvino", "ngram"),
    )
    adapter = engine("openvino")
    async with running(adapter, variant, SystemClock()) as replica:
        connector = aiohttp.UnixConnector(replica.address.removeprefix("unix:"))
        headers = {"Authorization": f"Bearer {replica.token}"}
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
            answers = await asyncio.gather(
                *(_written(session, adapter, speculate) for speculate in (True, False))
            )
            _, _, again = await _written(session, adapter, False)
    (guessed, guessed_chunks, usage), (plain, plain_chunks, plain_usage) = answers
    details, plain_details = (each["completion_tokens_details"] for each in (usage, plain_usage))
    # Rounding differs with the number of tokens in a step, so at near ties the texts may part.
    assert guessed
    assert plain
    # Right guesses come several at a time.
    assert guessed_chunks < plain_chunks
    assert 0 < details["accepted_tokens"] <= details["drafted_tokens"]
    assert "drafted_tokens" not in plain_details
    # Asked again, the prompt's whole pages are known.
    assert 0 < again["prompt_tokens_details"]["cached_tokens"] < again["prompt_tokens"]


async def _written(
    session: aiohttp.ClientSession, adapter: Engine, speculate: bool
) -> tuple[str, int, dict[str, Any]]:
    """Text and number of chunks of one greedy stream, and its usage."""
    request = ChatRequest(
        model="m",
        messages=[UserMessage(content=code_edit(random.Random(3)))],
        # Beside another sequence half of the first steps may guess, and as much as their times so far say: what else
        # a machine does can keep an answer of 48 tokens from guessing at all.
        max_tokens=160,
        temperature=0,
        stream=True,
        ignore_eos=True,
    )
    call = adapter.call(request, entry("m", "openvino", "m"), "test", Hints(speculate=speculate))
    texts: list[str] = []
    usage: dict[str, Any] = {}
    async with session.post(f"http://replica{call.path}", data=call.body) as response:
        response.raise_for_status()
        async for line in response.content:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                usage = event.get("usage") or usage
                texts += [text for choice in event["choices"] if (text := choice["delta"].get("content"))]
    return "".join(texts), len(texts), usage
