"""The supervisor as a real process: starting, restarting, ending, and what a violent death leaves."""

import json
import os
import signal
import socket
import stat
import sys
from pathlib import Path

import pytest
from tests.fleet.launching import (
    SLEEPER,
    is_running,
    launch,
    pids_in,
    python,
    supervisor,
    until,
    wait_until,
)

from outpace.fleet.local import LocalPool
from outpace.fleet.shutdown import shut_down
from outpace.fleet.supervisor import EXIT_CONFIG, Program
from outpace.values.clock import SystemClock
from outpace.values.deployment import Launch
from outpace.values.home import Home

# Writes its pid and its grandchild's, then waits; the grandchild ignores SIGTERM in a session of its own.
_FAMILY = """
import os, signal, sys
path = sys.argv[1]
def note():
    with open(path, "a") as file: file.write(f"{os.getpid()}\\n")
if os.fork() == 0:
    if "--own-session" in sys.argv: os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note()
    while True: signal.pause()
note()
while True: signal.pause()
"""


def _launch(argv: tuple[str, ...]) -> Launch:
    return Launch(argv=argv, address="unix:/nowhere", token="t")


def _pool(home: Home) -> LocalPool:
    return LocalPool(home, SystemClock())


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


async def test_a_program_that_dies_is_started_again_and_says_so(home: Home) -> None:
    with supervisor(home, Program(name="control", argv=SLEEPER)):
        pool = _pool(home)
        first = (await pool.everything())[0]
        os.kill(first.pid, signal.SIGKILL)

        async def is_new() -> bool:
            now = (await pool.everything())[0]
            return now.pid not in (0, first.pid) and now.restarts == 1

        await until(is_new)


async def test_sigterm_ends_gateways_then_control_then_replicas(home: Home, tmp_path: Path) -> None:
    order = tmp_path / "order"
    tells = """
import signal, sys
def end(*_):
    with open(sys.argv[1], "a") as file: file.write(sys.argv[2] + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("up", flush=True)
signal.pause()
"""

    def command(name: str) -> tuple[str, ...]:
        return (*python(tells), str(order), name)

    gateway = Program(name="gateway-0", argv=command("gateway"), stop_rank=0)
    control = Program(name="control", argv=command("control"), stop_rank=1)
    with supervisor(home, control, gateway) as process:
        await _pool(home).start("r", _launch(command("replica")))
        for name in ("control", "gateway-0", "r"):
            wait_until(lambda name=name: (home.logs / f"{name}.log").exists())  # type: ignore[misc]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert order.read_text().split() == ["gateway", "control", "replica"]
    assert not home.supervisor.exists()
    assert not (home.sockets / "supervisor.sock").exists()


def test_a_second_signal_ends_at_once(home: Home) -> None:
    stubborn = python(
        "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True)\nwhile 1: signal.pause()"
    )
    with supervisor(home, Program(name="gateway-0", argv=stubborn, grace_s=3600)) as process:
        wait_until(lambda: (home.logs / "gateway-0.log").exists())
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


@pytest.mark.parametrize("own_session", [False, True])
async def test_stopping_a_replica_ends_its_whole_family(
    home: Home, tmp_path: Path, own_session: bool
) -> None:
    family = tmp_path / "pids"
    flags = ("--own-session",) if own_session else ()
    with supervisor(home) as process:
        pool = _pool(home)
        await pool.start("r", _launch((*python(_FAMILY), str(family), *flags)))
        wait_until(lambda: len(pids_in(family)) == 2)
        await pool.stop("r", grace_s=5.0)

        async def has_ended() -> bool:
            return [child.exit_code for child in await pool.replicas()] == [-signal.SIGTERM]

        await until(has_ended)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert not any(is_running(pid) for pid in pids_in(family))


async def test_kill_9_of_the_supervisor_leaves_no_child(home: Home) -> None:
    with supervisor(home, Program(name="control", argv=SLEEPER)) as process:
        pool = _pool(home)
        await pool.start("r", _launch(SLEEPER))
        pids = [child.pid for child in await pool.everything()]
        assert len(pids) == 2
        process.kill()
        wait_until(lambda: not any(is_running(pid) for pid in pids))


@pytest.mark.parametrize("own_session", [False, True])
@pytest.mark.parametrize("next_comes", ["up", "down"])
async def test_grandchildren_of_a_killed_supervisor_are_reaped_by_whoever_comes_next(
    home: Home, tmp_path: Path, own_session: bool, next_comes: str
) -> None:
    family = tmp_path / "pids"
    flags = ("--own-session",) if own_session else ()
    with supervisor(home) as process:
        await _pool(home).start("r", _launch((*python(_FAMILY), str(family), *flags)))
        wait_until(lambda: len(pids_in(family)) == 2)
        process.kill()
        process.wait()
    if next_comes == "down":
        assert shut_down(home, grace_s=5.0).num_leftovers >= 1
    else:
        (home.sockets / "supervisor.sock").unlink()
        with supervisor(home) as again:
            again.send_signal(signal.SIGTERM)
            assert again.wait(20) == 0
    assert not any(is_running(pid) for pid in pids_in(family))


def test_down_ends_a_running_platform_and_is_calm_about_none(home: Home) -> None:
    with supervisor(home, Program(name="control", argv=SLEEPER)) as process:
        ended = shut_down(home, grace_s=20.0)
        assert (ended.supervisor_pid, ended.was_killed) == (process.pid, False)
        assert process.wait(20) == 0
    assert shut_down(home, grace_s=1.0).supervisor_pid is None


def test_a_stranger_with_a_recorded_pid_is_not_touched(home: Home) -> None:
    home.make()
    stranger = {"pid": os.getpid(), "started_ticks": 1, "machine_boot": "another"}
    home.supervisor.write_text(json.dumps({"supervisor": stranger, "children": [stranger]}))
    ended = shut_down(home, grace_s=1.0)
    assert (ended.supervisor_pid, ended.num_leftovers) == (None, 0)


def test_a_second_supervisor_of_one_home_is_refused(home: Home) -> None:
    with supervisor(home) as first, launch(home) as second:
        assert second.wait(20) == 1
        assert second.stderr is not None
        assert f"runs already in {home.root} as process {first.pid}" in second.stderr.read()


def test_a_program_that_refuses_its_settings_ends_the_platform_with_its_reason(home: Home) -> None:
    refuses = python(
        f"""print('{{"event":"refused","reason":"the database is newer"}}'); raise SystemExit({EXIT_CONFIG})"""
    )
    with launch(
        home, Program(name="control", argv=refuses), Program(name="gateway-0", argv=SLEEPER)
    ) as process:
        assert process.wait(20) == 1
        assert process.stderr is not None
        assert process.stderr.read() == "control: the database is newer\n"


def test_a_program_that_does_not_exist_ends_the_platform_with_its_reason(home: Home) -> None:
    with launch(home, Program(name="control", argv=("/nowhere/python",))) as process:
        assert process.wait(20) == 1
        assert process.stderr is not None
        assert "/nowhere/python: No such file" in process.stderr.read()


async def test_the_socket_is_private_and_garbage_on_it_hurts_nobody(home: Home) -> None:
    with supervisor(home):
        path = home.sockets / "supervisor.sock"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for garbage in (b"\n", b"{}\n", b'{"do":"dance"}\n', b"\xff" * 3_000_000):
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(5)
                client.connect(str(path))
                try:
                    client.sendall(garbage)
                    answer = client.recv(100)
                except OSError:
                    answer = b""
                assert answer == b"" or b"error" in answer
        assert await _pool(home).replicas() == []


def test_the_supervisor_stays_small(home: Home) -> None:
    with supervisor(home, Program(name="control", argv=SLEEPER)) as process:
        status = Path(f"/proc/{process.pid}/status").read_text()
    resident_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert resident_kib < 40 * 1024, sys.version
