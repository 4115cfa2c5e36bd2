"""The front before a server of somebody else's: token, streaming, leaving, and the server's end."""

import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.contract.replicas import RunningReplica, running_replica, start_process, stop, wait_until

from outpace.engines import child
from outpace.engines.front_config import FrontConfig
from outpace.engines.registry import engine
from outpace.values.deployment import Launch
from outpace.values.errors import OutpaceError
from outpace.values.requests import ChatRequest, UserMessage
from outpace.values.snapshot import DeploymentEntry

_ENTRY = DeploymentEntry(
    name="public/front", model="m", engine_model="inner", engine="echo", state="ready", created=1, owned_by="o",
    tasks=("chat",), context_tokens=512,
)  # fmt: skip


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="outpace-", dir="/tmp") as folder:
        yield Path(folder)


def launch_of(place: Path, *argv: str) -> Launch:
    config = FrontConfig(socket_path=f"{place}/front.sock", argv=argv, missing="install it")
    return child.launch_module("outpace.engines.front_main", config, config.socket_path, "token")


def echo_behind_a_front(place: Path) -> Launch:
    """The echo engine as a server without a key on a port."""
    config = {"address": "http://127.0.0.1:PORT", "model": "inner"}
    told = msgspec.json.encode(config).decode()
    # `{port}` must be a word of its own; a shell puts it into the JSON.
    script = (
        f"exec {sys.executable} -m outpace.engines.echo_server --config \"$(echo '{told}' | sed s/PORT/$0/)\""
    )
    return launch_of(place, "sh", "-c", script, "{port}")


def test_a_server_without_a_key_gets_one_and_streams_through(place: Path) -> None:
    launch = echo_behind_a_front(place)
    slow = "echo:token_interval_ms=50 one two three"
    request = ChatRequest(model="m", messages=[UserMessage(content=slow)], stream=True)
    with running_replica(engine("echo"), launch, _ENTRY, place / "log") as replica:
        exchange = replica.ask(request)
        assert exchange.reader.is_complete
        assert len(exchange.pieces) > 1
        stranger = RunningReplica(replica.engine, _ENTRY, replica.address, "wrong", None)
        with pytest.raises(OutpaceError, match="credentials"):
            stranger.ask(request)
        assert (place / "front.sock").stat().st_mode & 0o077 == 0


def test_leaving_ends_the_request_at_the_server(place: Path) -> None:
    slow = "echo:token_interval_ms=200 echo:tokens=400 word"
    request = ChatRequest(model="m", messages=[UserMessage(content=slow)], stream=True, max_tokens=400)
    with running_replica(engine("echo"), echo_behind_a_front(place), _ENTRY, place / "log") as replica:
        connection, response, reader = replica.send(request)
        while not reader.usage.completion_tokens:
            reader.feed(response.read1(65_536))
        assert replica.running() == 1
        response.close()
        connection.close()
        wait_until(lambda: replica.running() == 0, deadline_s=2.0)


def test_sigterm_ends_server_and_front(place: Path) -> None:
    process = start_process(launch_of(place, "sleep", "1000"), place / "log")
    wait_until((place / "front.sock").exists)
    process.send_signal(signal.SIGTERM)
    assert stop(process) == 0


def test_the_key_is_in_a_private_file_and_gone_at_the_end(place: Path) -> None:
    # The shell takes `--config FILE` as words of its own; `sleep` would refuse them.
    argv = ("sh", "-c", "exec sleep 1000")
    config = FrontConfig(socket_path=f"{place}/front.sock", argv=argv, missing="", takes_key_file=True)
    launch = child.launch_module("outpace.engines.front_main", config, config.socket_path, "token")
    process = start_process(launch, place / "log")
    wait_until((place / "front.sock").exists)
    key_file = place / "front.sock.yaml"
    assert key_file.stat().st_mode & 0o077 == 0
    assert key_file.read_text() == 'api-key: "token"\n'
    process.send_signal(signal.SIGTERM)
    assert stop(process) == 0
    assert not key_file.exists()


@pytest.mark.parametrize(
    ("argv", "says"), [(("false",), "ended with status 1"), (("no-such-program",), "cannot be run")]
)
def test_a_server_that_does_not_run_is_reported_with_the_remedy(
    place: Path, argv: tuple[str, ...], says: str
) -> None:
    process = start_process(launch_of(place, *argv), place / "log")
    assert process.wait(20.0) == 1
    failed = msgspec.json.decode((place / "log").read_text().splitlines()[-1])
    assert says in failed["reason"]
    assert "install it" in failed["reason"]


def test_weights_that_are_none_are_refused_before_the_server_starts(place: Path) -> None:
    (place / "empty").mkdir()
    config = FrontConfig(
        socket_path=f"{place}/front.sock", argv=("echo", "{weights}"), missing="", weights=f"{place}/empty"
    )
    launch = child.launch_module("outpace.engines.front_main", config, config.socket_path, "token")
    process = start_process(launch, place / "log")
    assert process.wait(20.0) == 1
    assert "config.json" in (place / "log").read_text()
