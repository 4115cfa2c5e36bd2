"""Start a real supervisor in a process of its own, and wait for things with a deadline."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from outpace.fleet.supervisor import Program
from outpace.values.home import Home

_MAIN = """
import asyncio, os, sys
import msgspec
from pathlib import Path
from outpace.fleet.supervisor import Program, run_supervisor
from outpace.values.errors import OutpaceError
from outpace.values.home import Home
programs = msgspec.json.decode(sys.argv[2], type=list[Program])
try:
    asyncio.run(run_supervisor(Home(Path(sys.argv[1])), programs, base_env=dict(os.environ), replica_grace_s=2.0))
except OutpaceError as error:
    print(error, file=sys.stderr)
    sys.exit(1)
"""
SLEEPER = (sys.executable, "-S", "-c", "import signal; signal.pause()")


def python(code: str) -> tuple[str, ...]:
    """The command that runs `code` in a bare interpreter."""
    return (sys.executable, "-S", "-c", code)


@contextmanager
def supervisor(home: Home, *programs: Program) -> Iterator[subprocess.Popen[str]]:
    """A supervisor that answers on its socket; killed at the end if it still runs."""
    with launch(home, *programs) as process:
        wait_until(lambda: _answers(home.sockets / "supervisor.sock") or process.poll() is not None)
        yield process


def _answers(path: Path) -> bool:
    """Somebody listens: the file alone is there a moment earlier."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@contextmanager
def launch(home: Home, *programs: Program) -> Iterator[subprocess.Popen[str]]:
    """A supervisor process, whatever becomes of it."""
    argv = [sys.executable, "-c", _MAIN, str(home.root), msgspec.json.encode(programs).decode()]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until(is_true: Callable[[], bool], deadline_s: float = 20.0) -> None:
    """Poll until true; AssertionError after the deadline."""
    until = time.monotonic() + deadline_s
    while not is_true():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.01)


async def until(is_true: Callable[[], Awaitable[bool]], deadline_s: float = 20.0) -> None:
    """Poll an awaitable until true; TimeoutError after the deadline."""
    async with asyncio.timeout(deadline_s):
        while not await is_true():
            await asyncio.sleep(0.01)


def is_running(pid: int) -> bool:
    """A process with this number exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def pids_in(path: Path) -> list[int]:
    """The numbers that children appended to a file, one per line."""
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def environment() -> dict[str, str]:
    """This process's environment."""
    return dict(os.environ)
