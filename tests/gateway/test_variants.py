"""Two variants of one deployment behind a worker, both real: who may serve what, and streams that change engines."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from tests.gateway.platform import Platform, platform
from tests.gateway.test_moving import ask, start_llama, text_of, wait_until_answering
from tests.weights import made_artifacts, smollm2_gguf  # noqa: F401  # a fixture

from outpace.engines.registry import engine
from outpace.values.deployment import LaunchOrder
from outpace.values.snapshot import ReplicaEntry, VariantEntry

MAIN = VariantEntry(
    id="llamacpp/q4_1/f16",
    engine="llamacpp",
    engine_model="m",
    context_tokens=2_048,
    speeds=((1, 10.0), (8, 10.0)),
)
# Faster at every load, so that what goes to the other one has a reason.
SECOND = VariantEntry(
    id="openvino/q4_1/f16",
    engine="openvino",
    engine_model="m",
    context_tokens=2_048,
    speeds=((1, 50.0), (8, 200.0)),
)


def start_openvino(made: Platform, gguf: Path) -> ReplicaEntry:
    order = LaunchOrder(
        replica_id="many", deployment="m", model="m", artifact_path=str(gguf), tasks=("chat", "completions"),
        artifacts_dir=str(made_artifacts()), context_tokens=2_048, parallel=4, threads=1,
        socket_dir=str(made.home.sockets), token="t" * 32,
    )  # fmt: skip
    launch = engine("openvino").launch(order)
    made.workers.append(subprocess.Popen(launch.argv, env={**os.environ, **launch.env}))
    return ReplicaEntry(id="many", address=launch.address, token=launch.token, variant=SECOND.id)


@pytest.fixture
async def both(tmp_path: Path, smollm2_gguf: Path) -> AsyncIterator[Platform]:  # noqa: F811
    with platform(tmp_path) as made:
        made.add_key()
        one = start_llama(made, "one", smollm2_gguf)
        replicas = (
            ReplicaEntry(id="one", address=one.address, token=one.token, variant=MAIN.id),
            start_openvino(made, smollm2_gguf),
        )
        made.deploy(
            "m", [], engine="llamacpp", replicas=replicas, variants=(MAIN, SECOND), context_tokens=2_048
        )
        made.publish()
        made.start_worker()
        async with asyncio.timeout(90):
            while not all(Path(each.address.removeprefix("unix:")).exists() for each in replicas):
                await asyncio.sleep(0.05)
        await wait_until_answering(made)
        yield made


async def test_variants_serve_what_they_can_and_a_stream_changes_engines(both: Platform) -> None:
    async with aiohttp.ClientSession() as client:
        await both.settled(1)
        assert (await ask(both, client, max_tokens=2))[0] == 200
        # What only the main one can, waits for no other; what it cannot is refused although another one could.
        assert (await ask(both, client, max_tokens=2, logit_bias={"5": -100}))[0] == 200
        assert (await ask(both, client, max_tokens=2, min_tokens=2))[0] == 400
        status, events = await ask(both, client, kills="many", max_tokens=200, ignore_eos=True)
        settled = await both.settled(4)
    served = [each.serving.variant for each in settled if each.serving is not None]
    assert served[-3:-1] == [SECOND.id, MAIN.id]
    assert status == 200
    moved = settled[-1]
    assert (moved.outcome, moved.attempts, moved.usage.completion_tokens) == ("completed", 2, 200)
    assert moved.serving is not None
    assert (moved.serving.variant, moved.serving.moves) == (MAIN.id, 1)
    assert len({each["id"] for each in events}) == 1
    assert events[-1]["usage"]["completion_tokens"] == 200
    assert [each["choices"][0]["finish_reason"] for each in events if each["choices"]].count("length") == 1
    assert len(text_of(events)) > 200
