"""This machine as a part of a Ray cluster: `ray start` with a token, bounds, and no telemetry."""

import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from outpace.values.errors import InvalidInput

# Ray reads the token there by itself.
DEFAULT_TOKEN_PATH = Path("~/.ray/auth_token")
_TOKEN_BYTES = 32
# Told to what runs on this machine: where weights lie that it is sent, and how many GiB of unused ones.
WEIGHTS_DIR = "OUTPACE_NODE_WEIGHTS_DIR"
WEIGHTS_GIB = "OUTPACE_NODE_WEIGHTS_GIB"
# A machine that went silent is given up after some seconds instead of half a minute.
_QUICK_HEALTH = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
_MIB = 1024 * 1024


class NodeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How this machine joins; None leaves it to Ray, which looks at the machine."""

    # None: be the head.
    head: str | None
    # The head's port; only for the head.
    port: int = 6379
    own_address: str | None = None
    cpus: int | None = None
    devices: int | None = None
    accelerator: str | None = None
    labels: Mapping[str, str] = {}
    object_store_mib: int | None = None
    folder: Path | None = None
    # For weights that this machine is sent; None: the user's cache, and a quarter of its disk for unused ones.
    weights_dir: Path | None = None
    weights_gib: float | None = None


def ray_start(options: NodeOptions) -> list[str]:
    """The command that joins and stays."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    if options.head is None:
        # Without Ray's job door: whoever reaches it runs code.
        command += ["--head", f"--port={options.port}", "--include-dashboard=false"]
    else:
        command += [f"--address={options.head}"]
    labels = dict(options.labels)
    if options.accelerator:
        labels["ray.io/accelerator-type"] = options.accelerator
    given = {
        "--node-ip-address": options.own_address,
        "--num-cpus": options.cpus,
        "--num-gpus": options.devices,
        "--labels": ",".join(f"{name}={value}" for name, value in labels.items()) or None,
        "--object-store-memory": options.object_store_mib and options.object_store_mib * _MIB,
        "--temp-dir": options.folder,
    }
    return command + [f"{name}={value}" for name, value in given.items() if value is not None]


def node_env(options: NodeOptions, token_path: Path) -> dict[str, str]:
    """The environment of `ray start`; what runs on this machine inherits it."""
    own = {"RAY_USAGE_STATS_ENABLED": "0", **token_env(token_path)}
    if options.weights_dir is not None:
        own[WEIGHTS_DIR] = str(options.weights_dir.expanduser().absolute())
    if options.weights_gib is not None:
        own[WEIGHTS_GIB] = str(options.weights_gib)
    return {**os.environ, **own, **(_QUICK_HEALTH if options.head is None else {})}


def token_env(token_path: Path) -> dict[str, str]:
    """What lets a process in."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_path)}


def require_token(path: Path, *, may_make: bool) -> Path:
    """The token's file; made on the head when there is none. Raises InvalidInput."""
    file = path.expanduser().absolute()
    if file.is_file():
        return file
    if not may_make:
        raise InvalidInput(
            "--token-file", f"{file} does not exist; copy the head's ~/.ray/auth_token to this machine"
        )
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(fd, "w", encoding="ascii") as written:
        written.write(secrets.token_hex(_TOKEN_BYTES))
    return file


def start(options: NodeOptions, token_path: Path) -> "subprocess.Popen[bytes]":
    """Join; the process ends when this machine has left."""
    env = node_env(options, token_path)
    return subprocess.Popen(ray_start(options), env=env, stdin=subprocess.DEVNULL)
