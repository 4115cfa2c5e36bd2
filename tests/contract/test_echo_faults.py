"""The echo engine misbehaves on order, and the adapter tells each fault for what it is."""

import http.client
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.contract.conftest import entry, order
from tests.contract.replicas import RunningReplica, running_replica, start_process, wait_until
from tests.contract.test_engine_contract import chat

from outpace.engines.protocol import Reader
from outpace.engines.registry import engine
from outpace.values.errors import EngineFailed, Overloaded


@pytest.fixture
def echo(start: Callable[[str, Path | None], RunningReplica]) -> RunningReplica:
    return start("echo", None)


def stats(replica: RunningReplica) -> dict[str, int]:
    counted: dict[str, int] = json.loads(replica.get("/stats")[1])
    return counted


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("echo:garbage", EngineFailed),
        ("echo:error_status=503", Overloaded),
        ("echo:error_status=500", EngineFailed),
        ("echo:error_after_tokens=2 a b c", EngineFailed),
    ],
)
def test_told_faults(echo: RunningReplica, words: str, error: type[Exception], is_stream: bool) -> None:
    with pytest.raises(error):
        echo.ask(chat(words, stream=is_stream))
    assert echo.ask(chat()).reader.is_complete


def test_a_dropped_connection_leaves_an_incomplete_reader(echo: RunningReplica) -> None:
    connection, response, reader = echo.send(chat("echo:drop_after_tokens=2 a b c", stream=True))
    with pytest.raises(http.client.IncompleteRead):
        _read_all(response, reader)
    response.close()
    connection.close()
    assert reader.usage.completion_tokens == 2
    assert not reader.is_complete
    with pytest.raises(EngineFailed, match="broke off"):
        reader.finished()


def _read_all(response: http.client.HTTPResponse, reader: Reader) -> None:
    while piece := response.read1(4_096):
        reader.feed(piece)


def test_a_hang_can_be_left_and_is_counted_as_cancelled(echo: RunningReplica) -> None:
    before = stats(echo)
    connection = echo.connection(timeout_s=0.3)
    call = echo.engine.call(chat("echo:hang"), echo.deployment, "r")
    connection.request("POST", call.path, call.body, {"authorization": f"Bearer {echo.token}"})
    with pytest.raises(TimeoutError):
        connection.getresponse()
    connection.close()
    wait_until(lambda: stats(echo)["cancelled"] == before["cancelled"] + 1, deadline_s=1.0)
    assert stats(echo)["requests"] == before["requests"] + 1


def test_one_request_is_one_call(echo: RunningReplica) -> None:
    before = stats(echo)
    echo.ask(chat(n=2, stream=True))
    after = stats(echo)
    assert after["requests"] == before["requests"] + 1
    assert after["completed"] == before["completed"] + 1
    assert after["tokens"] == before["tokens"] + 12


@pytest.fixture
def own(sockets: Path, tmp_path: Path) -> Callable[..., Any]:
    def made(**settings: Any) -> Any:
        adapter = engine("echo")
        launch = adapter.launch(order("own", None, sockets, **settings))
        return running_replica(adapter, launch, entry("public/own", "echo", "own"), tmp_path / "log")

    return made


def test_a_crash_in_mid_stream_ends_the_process(own: Callable[..., Any]) -> None:
    with own() as replica:
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            replica.ask(chat("echo:crash_after_tokens=2 a b c", stream=True))
        wait_until(lambda: replica.process.poll() is not None)
        assert replica.process.returncode == 70


def test_streams_beyond_parallel_wait_for_their_turn(own: Callable[..., Any]) -> None:
    with own(parallel=1) as replica:
        first = replica.send(chat("echo:token_interval_ms=50 echo:tokens=50 a", stream=True, max_tokens=50))
        second = replica.connection()
        call = replica.engine.call(chat("b", stream=True), replica.deployment, "r")
        second.request("POST", call.path, call.body, {"authorization": f"Bearer {replica.token}"})
        wait_until(lambda: stats(replica)["waiting"] == 1)
        first[1].close()
        first[0].close()
        response = second.getresponse()
        assert b"[DONE]" in response.read()
        response.close()
        second.close()


def test_crash_on_start_says_so_in_one_line(sockets: Path, tmp_path: Path) -> None:
    launch = engine("echo").launch(order("dead", None, sockets, crash_on_start=True))
    process = start_process(launch, tmp_path / "log")
    assert process.wait(30) == 1
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert json.loads(line)["code"] == "crash_on_start"
