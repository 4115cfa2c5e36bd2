"""OpenVINO's process that speaks HTTP, on a private Unix socket; it owns the one that computes.

Run as `python -m outpace.engines.openvino_child --config JSON`, the token in the environment. A GGUF is converted once
and kept. Stays until SIGTERM. When loading fails the last line on stderr is one JSON object with the reason, and the
exit code is 1.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple, cast

import msgspec
import uvloop

from outpace.engines import child
from outpace.engines.openvino_config import OpenVinoConfig
from outpace.engines.openvino_front import Front
from outpace.engines.openvino_http import Connection
from outpace.engines.openvino_library import Tokenizer
from outpace.engines.openvino_weights import openvino_folder, with_draft_folder
from outpace.engines.openvino_wire import Frames, Loaded, Order, Report, Step, framed, framed_config
from outpace.values.clock import SystemClock
from outpace.values.errors import OutpaceError

_BACKLOG = 1024
_RECEIVED_BYTES = 1 << 16
_CLOCK = SystemClock()


# The process that computes, when it was started ahead; at most one.
_ahead: "list[_Computing]" = []


def prepare() -> None:
    """Start the process that computes ahead: it imports the library too, and waits for its configuration."""
    _ahead.append(_start_stepper())


def main() -> None:
    """Convert if need be, load, serve until SIGTERM or SIGINT."""
    child.phases.ended("import")
    config = child.read_config(OpenVinoConfig)
    token = child.take_token()
    child.clear_socket(config.socket_path)
    with tempfile.TemporaryDirectory(prefix="outpace-openvino-") as scratch:
        try:
            folder = openvino_folder(config, _made_in(scratch, "model"))
            config = with_draft_folder(config, _made_in(scratch, "draft"))
        except OutpaceError as error:
            child.fail(error.code or "load_failed", error.message)
        child.phases.ended("weights")
        config = msgspec.structs.replace(config, model_path=str(folder))
        stepper = _stepper()
        stepper.socket.sendall(framed_config(config))
        tokenizer = Tokenizer(folder)
        frames = _wait_loaded(stepper)
    child.phases.ended("load")
    uvloop.run(_serve(config, token, tokenizer, stepper.socket, frames))


def _made_in(scratch: str, name: str) -> Path:
    folder = Path(scratch) / name
    folder.mkdir()
    return folder


class _Computing(NamedTuple):
    """The process that computes, and our end of its socket."""

    socket: socket.socket
    process: "subprocess.Popen[bytes]"


def _stepper() -> _Computing:
    while _ahead:
        stepper = _ahead.pop()
        if stepper.process.poll() is None:
            return stepper
        stepper.socket.close()
    return _start_stepper()


def _start_stepper() -> _Computing:
    ours, theirs = socket.socketpair()
    argv = (sys.executable, "-m", "outpace.engines.openvino_stepper")
    with theirs:
        return _Computing(ours, subprocess.Popen(argv, stdin=theirs.fileno()))


def _wait_loaded(stepper: _Computing) -> Frames:
    """Return when the weights are in memory; when the stepper gave up, it has said why."""
    frames = Frames()
    while received := stepper.socket.recv(_RECEIVED_BYTES):
        for report in frames.reports(received):
            if isinstance(report, Loaded):
                return frames
    raise SystemExit(stepper.process.wait() or 1)


class Stepper(asyncio.Protocol):
    """The socket to the process that computes."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self.front: Front | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, order: Order) -> None:
        """Give an order."""
        self._transport.write(framed(order))

    def data_received(self, data: bytes) -> None:
        for report in self._frames.reports(data):
            self._take(report)

    def _take(self, report: Report) -> None:
        if isinstance(report, Step) and self.front is not None:
            self.front.report(report)

    def connection_lost(self, exc: Exception | None) -> None:
        # Its own last words are above; without it nothing can be answered.
        os.write(2, b'{"event":"replica_failed","code":"engine_died","reason":"OpenVINO\'s process ended"}\n')
        os._exit(1)


async def _serve(
    config: OpenVinoConfig,
    token: str,
    tokenizer: Tokenizer,
    ours: socket.socket,
    frames: Frames,
) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    _, stepper = await loop.create_connection(lambda: Stepper(frames), sock=ours)
    stepper.front = front = Front(config, token, tokenizer, stepper.send, _CLOCK)
    await loop.create_unix_server(lambda: Connection(front), config.socket_path, backlog=_BACKLOG)
    child.tell_listening(config.socket_path)
    await stopped.wait()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(config.socket_path)
    # Running requests were drained before SIGTERM; the stepper dies with this process.
    os._exit(0)


if __name__ == "__main__":
    main()
