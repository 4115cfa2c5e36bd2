"""The front of a running platform: starts the supervisor, waits for its doors, and takes it down again."""

import contextlib
import errno
import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import msgspec

from outpace.cli.client import AdminClient, Unreachable
from outpace.fleet import wire
from outpace.fleet.logs import last_lines
from outpace.fleet.pool import Child
from outpace.fleet.reasons import last_words
from outpace.fleet.record import claim, reap_predecessor
from outpace.fleet.shutdown import shut_down
from outpace.settings import Settings, home_of
from outpace.values.clock import SystemClock, sleep_blocking
from outpace.values.errors import Conflict, InvalidInput, OutpaceError

POLL_S = 0.05
_DOORS_DEADLINE_S = 60.0
# A program that ended so often in a row will not come up by waiting.
_HOPELESS_RESTARTS = 3
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StartFailed(OutpaceError):
    """The platform did not come up; the message has the reason."""


def refuse_if_taken(settings: Settings) -> None:
    """Raises Conflict when this home runs already or a port is in use; ends what a killed run left."""
    home = home_of(settings)
    with claim(home):
        reap_predecessor(home)
    if settings.port == settings.admin_port:
        raise InvalidInput("--admin-port", f"is the same as --port: {settings.port}")
    _refuse_taken_port(settings.host, settings.port, "--port")
    _refuse_taken_port(settings.admin_host, settings.admin_port, "--admin-port")


class Front:
    """The supervisor's process, seen from the one who started it."""

    def __init__(self, settings: Settings, settings_path: Path, is_detached: bool) -> None:
        self._settings = settings
        self._home = home_of(settings)
        self._clock = SystemClock()
        self._log = self._home.logs / "supervisor.log"
        command = [sys.executable, "-m", "outpace.cli.supervise", str(settings_path)]
        if not is_detached:
            command.append(str(os.getpid()))
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def wait_for_doors(self) -> None:
        """Return when the OpenAI door and the admin door answer. Raises StartFailed."""
        deadline_s = self._clock.monotonic_s() + _DOORS_DEADLINE_S
        while not (self._is_gateway_up() and self._is_control_up()):
            self.require_life()
            if self._clock.monotonic_s() > deadline_s:
                raise StartFailed(
                    f"no answer after {_DOORS_DEADLINE_S:.0f} s; the logs are in {self._home.logs}"
                )
            sleep_blocking(POLL_S)

    def require_life(self) -> None:
        """Raises StartFailed with the reason when the platform ended or cannot come up."""
        if self._process.poll() is not None:
            raise StartFailed(self._last_words("supervisor"))
        for child in self._programs():
            if child.restarts >= _HOPELESS_RESTARTS:
                raise StartFailed(f"{child.name} ends again and again: {self._last_words(child.name)}")

    def stay(self) -> int:
        """Wait until the platform ends by itself; its exit code."""
        return self._process.wait()

    def why_it_ended(self) -> str:
        """The reason that the supervisor gave."""
        return self._last_words("supervisor")

    def stop(self) -> None:
        """End everything: running requests first, at once when asked a second time."""
        with _each_signal_calls(self._process.terminate):
            if self._process.poll() is None:
                self._process.terminate()
                self._process.wait()
        shut_down(self._home, grace_s=0.0)

    def _is_gateway_up(self) -> bool:
        connection = http.client.HTTPConnection(*_door(self._settings.host, self._settings.port), timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _is_control_up(self) -> bool:
        try:
            AdminClient(self._home).get("/admin/status")
        except Unreachable:
            return False
        return True

    def _programs(self) -> list[Child]:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(2.0)
                connection.connect(str(self._home.sockets / "supervisor.sock"))
                connection.sendall(wire.line(wire.List()))
                raw = connection.makefile("rb").readline()
            return [child for child in wire.answer(raw).children if not child.is_replica]
        except (OSError, msgspec.DecodeError):
            return []

    def _last_words(self, name: str) -> str:
        lines = [line for line in last_lines(self._home.logs, name, 20) if line.strip()]
        return last_words(lines[-1]) if lines else f"it said nothing; the logs are in {self._home.logs}"


@contextlib.contextmanager
def signals_interrupt() -> Iterator[None]:
    """Within it SIGTERM and a closed terminal do what Ctrl-C does: raise KeyboardInterrupt."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with _each_signal_calls(interrupt):
        yield


@contextlib.contextmanager
def _each_signal_calls(act: Callable[[], None]) -> Iterator[None]:
    def received(number: int, frame: FrameType | None) -> None:
        act()

    before = {number: signal.signal(number, received) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _door(host: str, port: int) -> tuple[str, int]:
    return ("127.0.0.1" if host == "0.0.0.0" else "::1" if host == "::" else host), port


def _refuse_taken_port(host: str, port: int, option: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As the server will: connections of an earlier run that linger do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise Conflict(f"port {port} is in use by another program; pick one with {option}") from None
            raise InvalidInput(
                option, f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}"
            ) from None
