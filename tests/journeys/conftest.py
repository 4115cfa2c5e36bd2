"""A real platform for the whole session: started by the CLI, with a real model, used by the official SDK."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from outpace.fleet.processes import leftovers
from outpace.fleet.record import mark_of
from outpace.values.home import Home

CHAT = "smollm2-135m-instruct"
EMBED = "smollm2-135m-embed"


class Platform:
    """One installation, driven only through its doors: the command line and HTTP."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        self.port, self.admin_port = free_ports(2)

    def run(self, *words: str, exit_code: int = 0, timeout_s: float = 100.0) -> str:
        """Stdout of a command that must end with this code; its stderr is in the failure's message."""
        ran = subprocess.run(
            self.command(*words), capture_output=True, text=True, timeout=timeout_s, env=self.env, check=False
        )
        assert ran.returncode == exit_code, f"{words} ended with {ran.returncode}: {ran.stdout}{ran.stderr}"
        return ran.stdout if exit_code == 0 else ran.stderr

    def json(self, *words: str) -> Any:
        """What a command prints with `--json`."""
        return json.loads(self.run(*words, "--json"))

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "outpace.cli.app", *words]

    @property
    def env(self) -> dict[str, str]:
        # Formats are proven when a deployment has been idle for minutes: beside tests of other things.
        return {"OUTPACE_PROVE": "off", **os.environ, "OUTPACE_HOME": str(self.home.root)}

    def up(self, *words: str) -> str:
        """Start it in the background; what it said."""
        return self.run("up", "--detach", *self.ports, *words)

    @property
    def ports(self) -> tuple[str, ...]:
        return ("--port", str(self.port), "--admin-port", str(self.admin_port))

    def client(self, key: str | None = None, max_retries: int = 0) -> OpenAI:
        """The official SDK with this key, or the owner's."""
        credentials = json.loads(self.home.credentials.read_bytes())
        return OpenAI(
            base_url=credentials["base_url"],
            api_key=key or credentials["api_key"],
            max_retries=max_retries,
            timeout=60.0,
        )

    def processes(self) -> list[int]:
        """Every living process of this installation."""
        return [identity.pid for identity in leftovers(mark_of(self.home), [])]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def until(is_true: Callable[[], object], deadline_s: float = 30.0) -> None:
    """Look again and again until it is true."""
    never, give_up_s = threading.Event(), time.monotonic() + deadline_s
    while not is_true():
        assert time.monotonic() < give_up_s, f"not true within {deadline_s} s"
        never.wait(0.05)


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Chat and embeddings on a real model."""
    started = Platform(tmp_path_factory.mktemp("platform"))
    try:
        started.up("--model", CHAT, "--model", EMBED)
        yield started
    finally:
        started.run("down")
        assert started.processes() == []


@pytest.fixture(scope="session")
def openai(platform: Platform) -> Iterator[OpenAI]:
    """The official SDK with the owner's key."""
    with platform.client() as client:
        yield client


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Platform]:
    """An installation of a test's own, ended whatever happens."""
    made = Platform(tmp_path / "other")
    yield made
    made.run("down")
    assert made.processes() == []
