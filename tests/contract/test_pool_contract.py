"""What every pool must do; a new pool is one more entry of POOLS. Ray's runs on a real cluster of two machines."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.fleet.launching import SLEEPER, is_running, python, supervisor, until
from tests.fleet.ray_cluster import PoolsProcess

from outpace.engines.child import TOKEN_ENV
from outpace.fleet.handover import standby_launch
from outpace.fleet.local import LocalPool
from outpace.fleet.pool import Child, Pool
from outpace.values.clock import SystemClock
from outpace.values.deployment import Launch
from outpace.values.errors import Conflict, EngineFailed, InvalidInput, OutpaceError
from outpace.values.home import Home


@asynccontextmanager
async def _local(folder: Path, _: pytest.FixtureRequest) -> AsyncIterator[Pool]:
    home = Home(folder / "home")
    with supervisor(home):
        yield LocalPool(home, SystemClock())


@asynccontextmanager
async def _ray(folder: Path, request: pytest.FixtureRequest) -> AsyncIterator[Pool]:
    pools: PoolsProcess = request.getfixturevalue("ray_pools")
    pool = pools.pool(Home(folder / "home"))
    yield pool
    for child in await pool.replicas():
        await pool.stop(child.name, grace_s=0.0)


Opened = AbstractAsyncContextManager[Pool]
POOLS: dict[str, Callable[[Path, pytest.FixtureRequest], Opened]] = {"local": _local, "ray": _ray}


@pytest.fixture(params=POOLS)
async def pool(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pool]:
    async with POOLS[request.param](tmp_path, request) as opened:
        yield opened


def _launch(*argv: str, **env: str) -> Launch:
    return Launch(argv=argv, address="unix:/nowhere", token="t", env=env)


async def _only(pool: Pool) -> Child:
    (child,) = await pool.replicas()
    return child


async def _ended(pool: Pool) -> Child:
    async def has_ended() -> bool:
        return (await _only(pool)).exit_code is not None

    await until(has_ended)
    return await _only(pool)


async def test_a_started_replica_runs_and_is_listed_with_its_note(pool: Pool) -> None:
    child = await pool.start("chat@1", _launch(*SLEEPER), note='{"deployment":"chat"}')
    listed = await _only(pool)
    assert is_running(child.pid)
    assert (listed.name, listed.pid, listed.note) == ("chat@1", child.pid, '{"deployment":"chat"}')
    assert (listed.exit_code, listed.is_replica) == (None, True)


async def test_the_environment_of_the_launch_reaches_the_replica(pool: Pool) -> None:
    tells = python("import os; print('told', os.environ['TOLD'])")
    await pool.start("r", _launch(*tells, TOLD="yes"))
    assert (await _ended(pool)).last_line == "told yes"


async def test_an_end_is_reported_with_code_and_last_words(pool: Pool) -> None:
    ends = pool.ends()
    next_end = asyncio.ensure_future(anext(ends))
    async with asyncio.timeout(20):
        while not next_end.done():
            # Starting again until seen: the watch begins at a moment that a caller cannot know.
            await pool.start("r", _launch(*python("print('so long'); raise SystemExit(3)")))
            await _ended(pool)
            await asyncio.sleep(0.02)
        end = await next_end
    assert (end.name, end.exit_code, end.last_line) == ("r", 3, "so long")
    assert isinstance(ends, AsyncIterator)


async def test_stop_asks_first_and_kills_after_the_grace_time(pool: Pool) -> None:
    stubborn = python(
        "import os, signal; signal.signal(15, lambda *_: os.write(1, b'asked\\n')); os.write(1, b'up\\n')\n"
        "while 1: signal.pause()"
    )
    await pool.start("r", _launch(*stubborn))

    async def is_up() -> bool:
        return (await _only(pool)).last_line == "up"

    await until(is_up)
    await pool.stop("r", grace_s=0.2)
    end = await _ended(pool)
    assert (end.exit_code, end.last_line) == (-signal.SIGKILL, "asked")


async def test_stop_twice_and_of_unknown_names_is_fine(pool: Pool) -> None:
    await pool.start("r", _launch(*SLEEPER))
    for name in ("r", "r", "nobody"):
        await pool.stop(name, grace_s=5.0)
    assert (await _ended(pool)).exit_code == -signal.SIGTERM
    await pool.stop("r", grace_s=5.0)


async def test_a_name_runs_once_and_may_come_back_after_its_end(pool: Pool) -> None:
    first = await pool.start("r", _launch(*SLEEPER))
    with pytest.raises(Conflict):
        await pool.start("r", _launch(*SLEEPER))
    os.kill(first.pid, signal.SIGKILL)
    await _ended(pool)
    second = await pool.start("r", _launch(*SLEEPER))
    assert second.pid != first.pid
    assert (await _only(pool)).exit_code is None


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a\0b", "-x", "x" * 200])
async def test_names_that_could_be_paths_are_refused(pool: Pool, name: str) -> None:
    with pytest.raises(InvalidInput):
        await pool.start(name, _launch(*SLEEPER))


async def test_a_program_that_is_not_there_is_refused_with_its_name(pool: Pool) -> None:
    with pytest.raises(OutpaceError, match="/nowhere/engine"):
        await pool.start("r", _launch("/nowhere/engine"))
    assert await pool.replicas() == []


async def test_much_output_neither_blocks_nor_fills_the_disk(pool: Pool, tmp_path: Path) -> None:
    floods = python("import os\nfor _ in range(400): os.write(2, b'x' * 99_999 + b'\\n')\nprint('done')")
    await pool.start("r", _launch(*floods))
    assert (await _ended(pool)).last_line == "done"
    written_bytes = sum(file.stat().st_size for file in tmp_path.rglob("*.log*"))
    assert written_bytes < 20_000_000


_ECHO = "outpace.engines.echo_server"


def _echo(folder: Path, name: str, **config: object) -> Launch:
    """The launch of an echo replica that listens in `folder`."""
    address = f"unix:{folder}/{name}.sock"
    argv = (sys.executable, "-m", _ECHO, "--config", json.dumps({"address": address, **config}))
    return Launch(argv=argv, address=address, token="t", env={TOKEN_ENV: "t"})


async def _named(pool: Pool, name: str) -> Child:
    return next(child for child in await pool.replicas() if child.name == name)


async def _told(pool: Pool, name: str) -> dict[str, Any]:
    async def has_told() -> bool:
        return bool((await _named(pool, name)).told)

    await until(has_told)
    told: dict[str, Any] = json.loads((await _named(pool, name)).told)
    return told


async def test_a_replica_tells_what_its_start_took(pool: Pool, sockets: Path) -> None:
    await pool.start("r", _echo(sockets, "told"))
    told = await _told(pool, "r")
    assert told["address"] == f"unix:{sockets}/told.sock"
    assert set(told["phases"]) == {"process", "import", "load"}
    assert all(duration_s >= 0 for duration_s in told["phases"].values())


async def test_one_that_stands_by_becomes_the_replica_it_is_told_to_be(pool: Pool, sockets: Path) -> None:
    standby = await pool.stand_by("standby@echo-1", standby_launch(_ECHO), note="idle")
    replica = await pool.hand_over("standby@echo-1", "chat@1", _echo(sockets, "taken"), note="chat")
    assert (replica.name, replica.pid, replica.note) == ("chat@1", standby.pid, "chat")
    told = await _told(pool, "chat@1")
    # What was done ahead is no part of the start.
    assert (told["address"], set(told["phases"])) == (f"unix:{sockets}/taken.sock", {"import", "load"})
    assert [child.name for child in await pool.replicas()] == ["chat@1"]
    await pool.stop("chat@1", grace_s=5.0)
    assert (await _ended(pool)).name == "chat@1"


async def test_a_standby_that_died_is_refused_and_its_end_is_told(pool: Pool, sockets: Path) -> None:
    standby = await pool.stand_by("standby@echo-1", standby_launch(_ECHO))
    os.kill(standby.pid, signal.SIGKILL)
    with pytest.raises(EngineFailed):
        await pool.hand_over("standby@echo-1", "chat@1", _echo(sockets, "dead"))
    assert (await _ended(pool)).exit_code == -signal.SIGKILL
    with pytest.raises(EngineFailed, match="does not stand by"):
        await pool.hand_over("nobody", "chat@1", _echo(sockets, "dead"))


async def test_a_standby_for_another_engine_is_refused_and_ended(pool: Pool) -> None:
    await pool.stand_by("standby@echo-1", standby_launch(_ECHO))
    with pytest.raises(EngineFailed, match="stands by for outpace"):
        await pool.hand_over("standby@echo-1", "chat@1", _launch(*SLEEPER))
    assert (await _ended(pool)).name == "standby@echo-1"


async def test_a_standby_that_does_not_answer_is_ended(pool: Pool, sockets: Path) -> None:
    standby = await pool.stand_by("standby@echo-1", standby_launch(_ECHO))
    os.kill(standby.pid, signal.SIGSTOP)
    with pytest.raises(EngineFailed, match="did not answer"):
        await pool.hand_over("standby@echo-1", "chat@1", _echo(sockets, "mute"))
    assert (await _ended(pool)).exit_code == -signal.SIGKILL


async def test_a_name_that_runs_is_not_taken_over_twice(pool: Pool, sockets: Path) -> None:
    await pool.start("chat@1", _echo(sockets, "first"))
    await pool.stand_by("standby@echo-1", standby_launch(_ECHO))
    with pytest.raises(Conflict):
        await pool.hand_over("standby@echo-1", "chat@1", _echo(sockets, "second"))
    # Nothing was said to it: it stands by still.
    child = await pool.hand_over("standby@echo-1", "chat@2", _echo(sockets, "second"))
    assert child.name == "chat@2"
