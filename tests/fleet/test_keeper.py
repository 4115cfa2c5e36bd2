"""The keeper of a replica on another machine: it ends with whoever started it."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.fleet.launching import is_running, pids_in, python, wait_until

from outpace.fleet.local import LocalPool
from outpace.values.clock import SystemClock
from outpace.values.deployment import Launch
from outpace.values.home import Home


@pytest.fixture
async def keeper(tmp_path: Path) -> AsyncIterator["subprocess.Popen[bytes]"]:
    home = Home(tmp_path / "home")
    home.make()
    process = subprocess.Popen(
        [sys.executable, "-m", "outpace.fleet.keeper", str(home.root), "127.0.0.1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "RAY_AUTH_TOKEN": "the cluster's secret", "OMP_NUM_THREADS": "1"},
    )
    wait_until(lambda: (home.sockets / "supervisor.sock").exists() or process.poll() is not None)
    yield process
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


async def test_the_replica_and_all_that_it_started_end_when_the_input_ends(
    keeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    assert keeper.stdout.readline().startswith(b"http://127.0.0.1:")
    pids = tmp_path / "pids"
    code = (
        "import os, signal, subprocess, sys\n"
        "note = 'import os, signal; open(sys_argv, \"a\").write(str(os.getpid()) + chr(10)); signal.pause()'\n"
        f"note = note.replace('sys_argv', repr({str(pids)!r}))\n"
        "subprocess.Popen([sys.executable, '-S', '-c', note], start_new_session=True)\n"
        f"open({str(pids)!r}, 'a').write(str(os.getpid()) + chr(10)); signal.pause()"
    )
    pool = LocalPool(Home(tmp_path / "home"), SystemClock())
    await pool.start("r", Launch(argv=python(code), address="unix:/x", token="t"))
    wait_until(lambda: len(pids_in(pids)) == 2)
    keeper.stdin.close()
    wait_until(lambda: keeper.poll() is not None)
    wait_until(lambda: not any(is_running(pid) for pid in pids_in(pids)))


async def test_the_replica_does_not_inherit_the_clusters_secrets_nor_its_thread_limit(
    keeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    tells = python("import os; print([n for n in os.environ if n.startswith('RAY') or n.startswith('OMP')])")
    pool = LocalPool(Home(tmp_path / "home"), SystemClock())
    await pool.start("r", Launch(argv=tells, address="unix:/x", token="t"))
    log = tmp_path / "home" / "logs" / "r.log"
    wait_until(lambda: log.exists() and log.read_text().strip() == "[]")
