"""The scorer on the real engine and model: what it says and what it finds likely agree, and nothing stays behind."""

import asyncio
import json
from pathlib import Path

import pytest
from tests.weights import smollm2_gguf

from outpace.engines.registry import engine
from outpace.fleet.processes import identity_of
from outpace.lab.llamacpp_scorer import POSITIONS, LlamaScorer
from outpace.lab.replica import LabVariant, running
from outpace.precision.items import Item, Turn
from outpace.precision.measures import compare
from outpace.values.clock import SystemClock
from outpace.values.errors import EngineFailed

__all__ = ["smollm2_gguf"]

SCHEMA = {"type": "object", "properties": {"answer": {"enum": ["yes", "no"]}}, "required": ["answer"]}


def item(text: str, **fields: object) -> Item:
    return Item(id=text, messages=(Turn("user", text),), **fields)  # type: ignore[arg-type]  # a test's fields


def variant(path: Path) -> LabVariant:
    return LabVariant(model="m", artifact_path=path, context_tokens=512, parallel=2)


async def test_following_its_own_continuation_it_finds_what_it_said(smollm2_gguf: Path) -> None:
    asked = [
        item("What is the capital of France?"),
        # Characters of several tokens, and an answer that may end at once.
        item("日本の首都はどこですか。"),
        item("Is water wet? Answer as JSON.", schema=SCHEMA),
    ]
    async with (
        running(engine("llamacpp"), variant(smollm2_gguf), SystemClock()) as replica,
        LlamaScorer(replica, 2) as scorer,
    ):
        for one in asked:
            said = await scorer.continue_greedily(one)
            steps = await scorer.follow(one, said.tokens)
            result = compare(one, said, steps)
            assert len(said.steps) > 3
            assert result.kl < 0.01
            # A schema forces tokens that are not the favourites; freely, greedy means the favourite.
            if one.schema is None:
                assert said.tokens == tuple(step.favourite for step in said.steps)
                assert len(said.steps) <= POSITIONS
        assert json.loads(await scorer.answer(asked[2]))["answer"] in ("yes", "no")
        pid = replica.pid
    assert identity_of(pid) is None


async def test_items_of_one_document_share_its_sequence(smollm2_gguf: Path) -> None:
    async with (
        running(engine("llamacpp"), variant(smollm2_gguf), SystemClock()) as replica,
        LlamaScorer(replica, 2, ("log",)) as scorer,
    ):
        asked = [item(f"Question {number}", document="log") for number in range(2)]
        traces = await asyncio.gather(*map(scorer.continue_greedily, asked))
        assert [trace.item_id for trace in traces] == ["Question 0", "Question 1"]


async def test_weights_that_are_none_end_with_the_engines_words(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(EngineFailed, match="could not load"):
        async with running(engine("llamacpp"), variant(path), SystemClock()):
            pass
