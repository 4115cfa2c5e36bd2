"""A real Ray cluster on loopback addresses of this machine, kept small: no prestarted workers, little shared memory."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fleet.launching import wait_until

from outpace.fleet import ray_node
from outpace.fleet.local import OnRay, SocketPool
from outpace.fleet.processes import Identity, end_all, identity_of
from outpace.values.clock import SystemClock
from outpace.values.home import Home

HEAD, SECOND, THIRD = "127.0.0.2", "127.0.0.3", "127.0.0.4"
# Ray starts a worker for each core before anybody asks; two cores are too few for that.
_LEAN = {"RAY_prestart_worker_first_driver": "0", "RAY_enable_worker_prestart": "0"}


class RayCluster:
    """Machines by loopback address; the first one is the head."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.token = ray_node.require_token(folder / "token", may_make=True)
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def address(self) -> str:
        return f"{HEAD}:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        """What a process needs to be let in."""
        return {**os.environ, "RAY_AUTH_TOKEN_PATH": str(self.token), "RAY_AUTH_MODE": "token"}

    def begin(
        self,
        host: str,
        *,
        devices: int = 0,
        labels: dict[str, str] | None = None,
        without: Path | None = None,
    ) -> None:
        """Start a machine; `ready` says when it is there. It sees an empty folder in the place of `without`."""
        is_head = host == HEAD
        options = ray_node.NodeOptions(
            head=None if is_head else self.address,
            port=self.port,
            own_address=host,
            cpus=2,
            devices=devices,
            labels=labels or {},
            object_store_mib=80,
            folder=self.folder / "s" if is_head else None,
            weights_dir=self.weights_dir(host),
        )
        env = {**ray_node.node_env(options, self.token), **_LEAN}
        command = ray_node.ray_start(options)
        if without is not None:
            hide = 'mount -t tmpfs none "$0" && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", hide, str(without), *command]
        with (self.folder / f"{host}.log").open("wb") as log:
            self._nodes[host] = subprocess.Popen(
                command, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def weights_dir(self, host: str) -> Path:
        """Where a machine keeps weights that it was sent."""
        return self.folder / f"weights-{host}"

    def ready(self, host: str) -> None:
        """Wait until the machine has joined."""
        log = self.folder / f"{host}.log"

        def is_up() -> bool:
            assert self._nodes[host].poll() is None, log.read_text()
            return "Ray runtime started" in log.read_text()

        wait_until(is_up, deadline_s=40.0)

    def crash(self, host: str) -> None:
        """Kill what Ray runs on a machine, as a power cut would, and nothing else."""
        for pid in self.processes(host):
            os.kill(pid, signal.SIGKILL)
        self._nodes.pop(host).wait()

    def processes(self, host: str) -> list[int]:
        """Ray's own processes of a machine."""
        raylet = f"--node_ip_address={host}"
        return [
            pid for pid in _pids() if raylet in argv_of(pid) and str(self.folder) in " ".join(argv_of(pid))
        ]

    def close(self) -> None:
        """End everything of it."""
        for node in self._nodes.values():
            node.terminate()
        for node in self._nodes.values():
            try:
                node.wait(timeout=15)
            except subprocess.TimeoutExpired:
                node.kill()
                node.wait()
        left: list[Identity] = [
            identity
            for pid in _pids()
            if str(self.folder) in " ".join(argv_of(pid)) and (identity := identity_of(pid))
        ]
        end_all(left, deadline_s=5.0)


@contextmanager
def cluster() -> Iterator[RayCluster]:
    """A head and a second machine."""
    # Ray puts sockets below it, so the path must be short.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    made = RayCluster(folder, _free_port())
    try:
        made.begin(HEAD)
        made.ready(HEAD)
        made.begin(SECOND)
        made.ready(SECOND)
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


def may_hide() -> bool:
    """A process may have a view of its own of the file system here."""
    asked = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    )
    return asked.returncode == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and int(entry) != os.getpid()]


def argv_of(pid: int) -> list[str]:
    """The command of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


class PoolsProcess:
    """A process with Ray pools, one for each home that it is told; they share its connection to the cluster."""

    _MAIN = """
import asyncio, sys
from pathlib import Path
from outpace.fleet.pool_door import PoolDoor
from outpace.fleet.ray_pool import RayPool, connect
from outpace.values.clock import SystemClock
from outpace.values.home import Home

async def main(address, lease_s):
    await asyncio.to_thread(connect, address, is_open=False)
    pools = []
    while home := (await asyncio.to_thread(sys.stdin.readline)).strip():
        pools.append(RayPool(Home(Path(home)), SystemClock(), lease_s))
        await pools[-1].find_again()
        await PoolDoor(pools[-1]).open(Home(Path(home)).ray_socket)
        print(home, flush=True)
    for pool in pools:
        await pool.end_all(2.0)

asyncio.run(main(sys.argv[1], float(sys.argv[2])))
"""

    def __init__(self, cluster: RayCluster, lease_s: float = 60.0) -> None:
        self._log = cluster.folder / "pools.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", self._MAIN, cluster.address, str(lease_s)],
                env=cluster.env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def pool(self, home: Home) -> SocketPool:
        """The pool of this home, with whatever an earlier process left of it."""
        home.make()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{home.root}\n")
        self._process.stdin.flush()
        # It logs to the same place.
        while (line := self._process.stdout.readline()).strip() != str(home.root):
            assert line, self._log.read_text()[-4000:]
        return OnRay(home, SystemClock())

    def kill(self) -> None:
        """As a crash does."""
        self._process.kill()
        self._process.communicate()

    def close(self) -> None:
        """End every replica, then the process."""
        try:
            self._process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()
