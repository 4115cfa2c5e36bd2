"""The command on a real replica of the echo engine, and what it refuses."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from outpace.cli.app import app_for
from outpace.engines.registry import engine
from outpace.lab.replica import LabReplica, LabVariant, running
from outpace.values.clock import SystemClock
from outpace.values.errors import InvalidInput

RUN = CliRunner()


@pytest.fixture(scope="module")
def echo() -> Iterator[LabReplica]:
    """A replica that lives as long as these tests, on a loop of its own."""
    ready, found, ends = threading.Event(), [], []
    variant = LabVariant(model="m", artifact_path=Path("none"), context_tokens=4096, parallel=8)

    async def live() -> None:
        ended = asyncio.Event()
        ends.append((asyncio.get_running_loop(), ended))
        async with running(engine("echo"), variant, SystemClock()) as replica:
            found.append(replica)
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=asyncio.run, args=(live(),), daemon=True)
    thread.start()
    assert ready.wait(30)
    yield found[0]
    loop, ended = ends[0]
    loop.call_soon_threadsafe(ended.set)
    thread.join(30)


def ask(*words: str, home: Path) -> str:
    argv = ["bench", "load", *words, "--home", str(home)]
    return RUN.invoke(app_for(argv), argv, catch_exceptions=False).output


@pytest.mark.parametrize("loop", [["--users", "4"], ["--rate", "500"]])
def test_a_load_is_put_on_any_endpoint(
    echo: LabReplica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: list[str]
) -> None:
    monkeypatch.setenv("ECHO_KEY", echo.token)
    words = ["--url", echo.address, "--key-env", "ECHO_KEY", "--model", "m", "--requests", "8", *loop]
    told = json.loads(ask(*words, "--json", home=tmp_path))
    assert told["figures"]["requests"] == 8
    assert told["figures"]["errors"] == 0
    assert told["figures"]["output_tokens_per_s"] > 0
    assert "text" not in told["samples"][0]
    assert "8 requests in" in ask(*words, home=tmp_path)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--users", "2", "--rate", "1"], "--rate"),
        (["--workload", "nothing"], "workload"),
        (["--workload", "none.jsonl"], "workload"),
        (["--key-env", "NO_SUCH_VARIABLE"], "--key-env"),
        (["--rate", "0", "--url", "http://127.0.0.1:9"], "--rate"),
    ],
)
def test_what_is_refused(tmp_path: Path, words: list[str], named: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        ask(*words, home=tmp_path)
    assert refused.value.param == named
