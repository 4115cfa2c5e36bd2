"""What every engine process that Outpace ships has in common: configuration, token, socket, failure line."""

import os
import socket
import stat
import sys
from pathlib import Path
from typing import NoReturn, TypeVar

import msgspec

from outpace.values.deployment import Launch, LaunchOrder

TOKEN_ENV = "OUTPACE_REPLICA_TOKEN"

# sun_path holds 108 bytes on Linux, the closing zero included.
_LONGEST_SOCKET_PATH = 107

_C = TypeVar("_C", bound=msgspec.Struct)


def socket_path(order: LaunchOrder) -> str:
    """Where a replica listens; the order's folder is private. The name is cut to what the kernel takes."""
    room = _LONGEST_SOCKET_PATH - len(os.fsencode(order.socket_dir)) - len("/.sock")
    return f"{order.socket_dir}/{order.replica_id[-room:]}.sock"


def launch_module(module: str, config: msgspec.Struct, path: str, token: str) -> Launch:
    """Start `module` with this interpreter: the configuration on argv, the token in the environment only."""
    argv = (sys.executable, "-m", module, "--config", msgspec.json.encode(config).decode())
    return Launch(argv=argv, address=f"unix:{path}", token=token, env={TOKEN_ENV: token})


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


def fail(code: str, reason: str, log_fd: int = 2) -> NoReturn:
    """End this process with status 1 and one JSON line on stderr."""
    line = msgspec.json.encode({"event": "replica_failed", "code": code, "reason": reason})
    os.write(log_fd, line + b"\n")
    raise SystemExit(1)
