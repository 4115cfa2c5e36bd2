"""A module in a process of its own: its end, its failure, and standing still with its children."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from outpace.lab.apart import run_apart
from outpace.values.errors import EngineFailed

_COUNTS = """
import itertools, os, subprocess, sys, time
if len(sys.argv) < 3:
    subprocess.Popen([sys.executable, __file__, sys.argv[1], "child"])
name = os.path.join(sys.argv[1], "parent" if len(sys.argv) < 3 else "child")
with open(name + ".pid", "w") as file:
    file.write(str(os.getpid()))
time.sleep(600)
"""


@pytest.fixture
def counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that starts a child; both write their process ids."""
    (tmp_path / "counts.py").write_text(_COUNTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


async def until(found: object) -> None:
    """Wait for a condition that is true soon."""
    assert callable(found)
    async with asyncio.timeout(20):
        while not found():
            await asyncio.sleep(0.01)


def state_of(pid: int) -> str:
    """The kernel's letter: S sleeps, T stands still; empty: gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    return ""


@asynccontextmanager
async def running(folder: Path, held: "list[bool]") -> AsyncIterator[list[int]]:
    """The process ids of parent and child."""
    files = [folder / "parent.pid", folder / "child.pid"]
    run = run_apart(folder / "log", "counts", str(folder), held=lambda: held[0])
    task = asyncio.create_task(run)
    await until(lambda: all(each.exists() and each.read_text() for each in files))
    yield [int(each.read_text()) for each in files]
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_all_of_them_stand_still_while_held_and_go_on_after(counts: Path) -> None:
    held = [False]
    async with running(counts, held) as pids:
        held[0] = True
        await until(lambda: [state_of(pid) for pid in pids] == ["T", "T"])
        held[0] = False
        await until(lambda: [state_of(pid) for pid in pids] == ["S", "S"])


@pytest.mark.parametrize("is_held", [False, True])
async def test_cancelling_ends_them_even_while_they_stand_still(counts: Path, is_held: bool) -> None:
    held = [False]
    async with running(counts, held) as pids:
        held[0] = is_held
        await until(lambda: {state_of(pid) for pid in pids} == {"T" if is_held else "S"})
    await until(lambda: all(state_of(pid) in ("", "Z") for pid in pids))
    assert os.getpid() not in pids


async def test_a_failure_is_told_with_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match="log"):
        await run_apart(tmp_path / "log", "no_such_module")
    assert "No module named" in (tmp_path / "log").read_text()
