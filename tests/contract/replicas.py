"""Replica processes for tests: started from what an adapter's `launch` says, asked over real HTTP."""

import http.client
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from outpace.engines.protocol import NO_HINTS, Call, Engine, Hints, Reader
from outpace.values.clock import SystemClock, sleep_blocking
from outpace.values.deployment import Launch
from outpace.values.requests import EngineBound
from outpace.values.snapshot import DeploymentEntry

_CLOCK = SystemClock()


class UnixConnection(http.client.HTTPConnection):
    """http.client over a Unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("replica", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._path)
        except OSError:
            self.sock.close()
            raise


@dataclass
class Exchange:
    """One finished call: what a client would have got."""

    reader: Reader
    sent: bytes = b""
    pieces: list[bytes] = field(default_factory=list)

    @property
    def answer(self) -> Any:
        """The JSON answer of a request that does not stream."""
        return json.loads(self.sent)

    @property
    def events(self) -> list[Any]:
        """The JSON of every event but the terminal one."""
        blocks = self.sent.decode().split("\n\n")
        assert blocks.pop() == "", "the stream ends with a whole event"
        assert all(block.startswith("data: ") for block in blocks)
        return [json.loads(block[6:]) for block in blocks if block != "data: [DONE]"]

    @property
    def num_terminal_events(self) -> int:
        return self.sent.count(b"data: [DONE]\n\n")


@dataclass
class RunningReplica:
    """A replica process and how to reach it; `process` is None for engines that are not launched."""

    engine: Engine
    deployment: DeploymentEntry
    address: str
    token: str
    process: "subprocess.Popen[bytes] | None"

    def connection(self, timeout_s: float = 60.0) -> http.client.HTTPConnection:
        if self.address.startswith("unix:"):
            return UnixConnection(self.address.removeprefix("unix:"), timeout_s)
        return http.client.HTTPConnection(urlsplit(self.address).netloc, timeout=timeout_s)

    def get(self, path: str) -> tuple[int, bytes]:
        return self._get(self._base + path)

    def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        return self._exchanged("POST", self._base + path, body)

    def _get(self, path: str) -> tuple[int, bytes]:
        return self._exchanged("GET", path, None)

    def _exchanged(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        connection = self.connection()
        headers = {**self._headers(), "content-type": "application/json"}
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def send(
        self, request: EngineBound, hints: Hints = NO_HINTS
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse, Reader]:
        """Send a request; the answer is still to be read."""
        call = self.engine.call(request, self.deployment, "req-test", hints)
        connection = self.connection()
        headers = {**self._headers(), "content-type": "application/json"}
        try:
            connection.request("POST", self._base + call.path, call.body, headers)
            response = connection.getresponse()
        except Exception:
            connection.close()
            raise
        call.reader.started(response.status, {})
        return connection, response, call.reader

    def post_and_leave_open(self, call: Call) -> http.client.HTTPConnection:
        """Send a call and wait for nothing."""
        connection = self.connection()
        headers = {**self._headers(), "content-type": "application/json"}
        connection.request("POST", self._base + call.path, call.body, headers)
        return connection

    def ask(self, request: EngineBound, hints: Hints = NO_HINTS) -> Exchange:
        """Send a request and read the whole answer through the reader. Raises what the reader raises."""
        connection, response, reader = self.send(request, hints)
        exchange = Exchange(reader)
        try:
            while piece := response.read1(65_536):
                exchange.pieces.append(piece)
                exchange.sent += reader.feed(piece)
            exchange.sent += reader.finished()
        finally:
            response.close()
            connection.close()
        return exchange

    def running(self) -> int:
        """Requests that the engine works on; an upstream without a figure of its own is asked as an echo."""
        if self.engine.load_path is None:
            return int(json.loads(self._get("/stats")[1])["running"])
        return self.engine.load(self.get(self.engine.load_path)[1]).running

    @property
    def _base(self) -> str:
        return "" if self.address.startswith("unix:") else urlsplit(self.address).path

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"} if self.token else {}


def start_process(launch: Launch, log: Path) -> "subprocess.Popen[bytes]":
    """The process that `launch` describes, its output in `log`."""
    with log.open("ab") as sink:
        return subprocess.Popen(
            launch.argv,
            env={**os.environ, **launch.env},
            stdout=sink,
            stderr=sink,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


@contextmanager
def running_replica(
    engine: Engine, launch: Launch, deployment: DeploymentEntry, log: Path
) -> Iterator[RunningReplica]:
    """A replica that answers, stopped by SIGTERM at the end."""
    process = start_process(launch, log)
    replica = RunningReplica(engine, deployment, launch.address, launch.token, process)
    try:
        wait_ready(replica, log)
        yield replica
    finally:
        stop(process)


def wait_ready(replica: RunningReplica, log: Path) -> None:
    """Return when the readiness path answers 200."""
    readiness = replica.engine.readiness(replica.deployment)

    def is_ready() -> bool:
        if replica.process and replica.process.poll() is not None:
            raise AssertionError(f"the replica ended: {log.read_text()[-2000:]}")
        try:
            return replica.get(readiness.path)[0] == 200
        except OSError:
            return False

    wait_until(is_ready, 600.0 if readiness.start_deadline_s > 600 else 60.0)


def stop(process: "subprocess.Popen[bytes]") -> int:
    """SIGTERM, then SIGKILL when it does not end; what it leaves in its group ends as the supervisor ends it."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(15.0)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until(is_true: Callable[[], bool], deadline_s: float = 10.0) -> float:
    """Poll until `is_true`; the seconds that it took."""
    started_s = _CLOCK.monotonic_s()
    while not is_true():
        waited_s = _CLOCK.monotonic_s() - started_s
        assert waited_s < deadline_s, f"not true after {waited_s:.1f} s"
        sleep_blocking(0.01)
    return _CLOCK.monotonic_s() - started_s
