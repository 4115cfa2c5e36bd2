"""What every engine process that Outpace ships has in common: configuration, token, socket, failure line."""

import os
import socket
import stat
import sys
from pathlib import Path
from typing import NoReturn, TypeVar

import msgspec

from outpace.values.clock import SystemClock, since_boot_s
from outpace.values.deployment import Launch, LaunchOrder

TOKEN_ENV = "OUTPACE_REPLICA_TOKEN"
LISTENING = "replica_listening"

# sun_path holds 108 bytes on Linux, the closing zero included.
_LONGEST_SOCKET_PATH = 107

_C = TypeVar("_C", bound=msgspec.Struct)
_CLOCK = SystemClock()


class Phases:
    """How long this process's start took, phase by phase (`values/starts.py` names them), in seconds."""

    def __init__(self, took_s: dict[str, float]) -> None:
        self.took_s = took_s
        self._last_s = _CLOCK.monotonic_s()

    def ended(self, phase: str) -> None:
        """This phase began where the last one ended, and ends now."""
        now_s = _CLOCK.monotonic_s()
        self.took_s[phase] = self.took_s.get(phase, 0.0) + now_s - self._last_s
        self._last_s = now_s

    def begin_again(self) -> None:
        """What was done ahead, standing by, is no part of the start."""
        self.took_s.clear()
        self._last_s = _CLOCK.monotonic_s()


def _process_age_s() -> float:
    """Since this process was forked; the kernel tells it in steps of 10 ms (proc(5), field 22)."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return max(0.0, since_boot_s() - int(fields[19]) / os.sysconf("SC_CLK_TCK"))


# Of this process: the interpreter's start is behind us.
phases = Phases({"process": _process_age_s()})


def socket_path(order: LaunchOrder) -> str:
    """Where a replica listens; the order's folder is private. The name is cut to what the kernel takes."""
    room = _LONGEST_SOCKET_PATH - len(os.fsencode(order.socket_dir)) - len("/.sock")
    return f"{order.socket_dir}/{order.replica_id[-room:]}.sock"


def launch_module(
    module: str, config: msgspec.Struct, path: str, token: str, files: tuple[str, ...] = ()
) -> Launch:
    """Start `module` with this interpreter: the configuration on argv, the token in the environment only.

    `files` are those that it reads, as the configuration names them.
    """
    argv = (sys.executable, "-m", module, "--config", msgspec.json.encode(config).decode())
    return Launch(argv=argv, address=f"unix:{path}", token=token, env={TOKEN_ENV: token}, files=files)


def read_config(kind: type[_C]) -> _C:
    """The configuration after `--config`: JSON, a file's path, or `-` for standard input."""
    if len(sys.argv) != 3 or sys.argv[1] != "--config":
        fail("usage", "call with --config JSON, --config FILE or --config -")
    given = sys.argv[2]
    if given == "-":
        given = sys.stdin.read()
    try:
        raw = given.encode() if given.lstrip().startswith("{") else Path(given).read_bytes()
        return msgspec.json.decode(raw, type=kind)
    except (OSError, msgspec.DecodeError) as error:
        fail("config_invalid", str(error))


def take_token() -> str:
    """The bearer token, removed from the environment so that nothing started from here inherits it."""
    return os.environ.pop(TOKEN_ENV, "")


def clear_socket(path: str) -> None:
    """Remove what a dead replica left at `path`. Fails when something else lies there or it still answers."""
    os.umask(0o177)
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        fail("address_taken", f"{path} exists and is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(path) == 0:
            fail("address_taken", f"another process answers at {path}")
    Path(path).unlink(missing_ok=True)


def tell_listening(address: str) -> None:
    """Say on standard output that the replica listens and what its start took; the pool keeps this line."""
    took_s = {phase: round(duration_s, 4) for phase, duration_s in phases.took_s.items()}
    line = {"event": LISTENING, "address": address, "phases": took_s}
    print(msgspec.json.encode(line).decode(), flush=True)


def fail(code: str, reason: str, log_fd: int = 2) -> NoReturn:
    """End this process with status 1 and one JSON line on stderr."""
    line = msgspec.json.encode({"event": "replica_failed", "code": code, "reason": reason})
    os.write(log_fd, line + b"\n")
    raise SystemExit(1)
