"""Guessing ahead on the real engine: guesses are made, counted, and some are right. No speed is claimed."""

import random
from pathlib import Path

import pytest

from outpace.engines.registry import engine
from outpace.engines.speculation import speculation_settings
from outpace.lab.load import LoadClient, Target
from outpace.lab.prompts import code_edit
from outpace.lab.replica import LabVariant, running
from outpace.values.clock import SystemClock


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
