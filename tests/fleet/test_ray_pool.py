"""What only a pool of several machines does: a machine dies, the pool's process dies, machines lie."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
from tests.fleet.launching import SLEEPER, is_running, pids_in, python, until
from tests.fleet.ray_cluster import SECOND, THIRD, PoolsProcess, RayCluster, argv_of, may_hide

from outpace.engines.child import launch_module
from outpace.engines.echo_server import EchoConfig
from outpace.fleet.handover import standby_launch
from outpace.fleet.local import SocketPool
from outpace.fleet.ray_knock import require_cluster
from outpace.values.deployment import Launch, Needs
from outpace.values.errors import EngineFailed, InvalidInput
from outpace.values.home import Home


def _launch(*argv: str, needs: Needs = Needs()) -> Launch:
    return Launch(argv=argv, address="unix:/nowhere", token="t", needs=needs)


@pytest.fixture
async def pool(ray_pools: PoolsProcess, tmp_path: Path) -> AsyncIterator[SocketPool]:
    pool = ray_pools.pool(Home(tmp_path / "home"))
    yield pool
    for child in await pool.replicas():
        await pool.stop(child.name, grace_s=0.0)


async def _status(address: str, token: str | None) -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        aiohttp.ClientSession() as session,
        session.get(address + "/health", headers=headers) as answer,
    ):
        return answer.status


async def test_a_replica_outlives_the_pools_process_and_is_found_again(
    ray: RayCluster, tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")
    path = str(home.sockets / "chat@1.sock")
    config = EchoConfig(address=f"unix:{path}", model="echo")
    first = PoolsProcess(ray)
    launch = launch_module("outpace.engines.echo_server", config, path, "secret")
    child = await first.pool(home).start("chat@1", launch, "a note")

    async def answers() -> bool:
        try:
            return await _status(child.address, "secret") == 200
        except aiohttp.ClientError:
            return False

    await until(answers)
    first.kill()
    assert await answers()
    assert await _status(child.address, None) == 401
    second = PoolsProcess(ray)
    (found,) = await second.pool(home).replicas()
    assert (found.pid, found.address, found.note) == (child.pid, child.address, "a note")
    second.close()
    assert not is_running(child.pid)


async def test_nobody_left_to_ask_for_it_means_that_a_replica_ends_by_itself(
    ray: RayCluster, tmp_path: Path
) -> None:
    process = PoolsProcess(ray, lease_s=1.0)
    child = await process.pool(Home(tmp_path / "home")).start("r@1", _launch(*SLEEPER))
    process.kill()

    async def has_ended() -> bool:
        return not is_running(child.pid)

    await until(has_ended)


async def test_with_its_host_everything_of_a_replica_ends(pool: SocketPool, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = (
        "import os, signal\n"
        "os.fork() or os.setsid()\n"
        f"open({str(pids)!r}, 'a').write(str(os.getpid()) + chr(10)); signal.pause()"
    )
    child = await pool.start("r@1", _launch(*python(code)))

    async def are_two() -> bool:
        return len(pids_in(pids)) == 2

    await until(are_two)
    keeper = _parent(child.pid)
    os.kill(_parent(keeper), signal.SIGKILL)

    async def is_told_and_gone() -> bool:
        (end,) = await pool.replicas()
        return end.exit_code is not None and not any(is_running(pid) for pid in pids_in(pids))

    await until(is_told_and_gone)


async def test_replicas_spread_and_a_dead_machines_replica_is_told_and_starts_elsewhere(
    ray: RayCluster, pool: SocketPool
) -> None:
    placed = [await pool.start(f"chat@{number}", _launch(*SLEEPER)) for number in (1, 2)]
    assert len({child.machine for child in placed}) == 2
    lost = next(child for child in placed if child.machine == SECOND)
    ray.crash(SECOND)
    try:

        async def is_told() -> bool:
            ended = {child.name: child for child in await pool.replicas() if child.exit_code is not None}
            return lost.name in ended and SECOND in ended[lost.name].last_line

        await until(is_told)
        again = await pool.start(lost.name, _launch(*SLEEPER))
        assert again.machine != SECOND
        assert not is_running(lost.pid)
        gone = next(machine for machine in await pool.machines() if machine.address == SECOND)
        assert not gone.is_alive
    finally:
        ray.begin(SECOND)
        ray.ready(SECOND)


async def test_a_machine_that_lies_about_its_devices_is_refused_by_name(
    ray: RayCluster, pool: SocketPool
) -> None:
    ray.begin(THIRD, devices=1, labels={"zone": "b"})
    ray.ready(THIRD)
    try:
        with pytest.raises(
            EngineFailed, match=f"{THIRD}: the machine says it has 1 accelerators, but its driver"
        ):
            await pool.start("r@1", _launch(*SLEEPER, needs=Needs(devices=1)))
        liar = next(machine for machine in await pool.machines() if machine.address == THIRD)
        assert liar.problem is not None
        # Nothing more is placed there, and it is said.
        with pytest.raises(EngineFailed, match="no room in the cluster for 1 CPU, zone=b"):
            await pool.start("r@1", _launch(*SLEEPER, needs=Needs(labels={"zone": "b"})))
    finally:
        ray.crash(THIRD)


@pytest.mark.skipif(not may_hide(), reason="needs the right to mount")
async def test_a_machine_without_the_weights_is_sent_them_once(
    ray: RayCluster, pool: SocketPool, tmp_path: Path
) -> None:
    weights = tmp_path / "there" / "Model.gguf"
    weights.parent.mkdir()
    weights.write_bytes(os.urandom(5_000_000))
    nowhere = tmp_path / "there" / "None.gguf"
    ray.begin(THIRD, labels={"zone": "far"}, without=weights.parent)
    ray.ready(THIRD)

    def launch(path: Path) -> Launch:
        argv = (*python("import signal, sys; open(sys.argv[1]); signal.pause()"), str(path))
        needs = Needs(labels={"zone": "far"})
        return Launch(argv=argv, address="unix:/nowhere", token="t", files=(str(path),), needs=needs)

    try:
        with pytest.raises(
            EngineFailed, match=rf"{THIRD} has no .*None\.gguf, nor has the machine of `outpace up`"
        ):
            await pool.start("r@1", launch(nowhere))
        first = await pool.start("r@1", launch(weights))
        there = Path(argv_of(first.pid)[-2])
        assert there.is_relative_to(ray.weights_dir(THIRD))
        assert there.read_bytes() == weights.read_bytes()
        assert first.took_s["fetch"] > 0
        second = await pool.start("r@2", launch(weights))
        assert argv_of(second.pid)[-2] == str(there)
        assert "fetch" not in second.took_s or second.took_s["fetch"] < first.took_s["fetch"]
    finally:
        ray.crash(THIRD)


async def test_only_a_named_machine_is_taken_and_packed_replicas_share_one(pool: SocketPool) -> None:
    named = Needs(nodes=(SECOND,))
    assert (await pool.start("r@1", _launch(*SLEEPER, needs=named))).machine == SECOND
    packs = Needs(packs=True)
    assert (await pool.start("r@2", _launch(*SLEEPER, needs=packs))).machine == SECOND
    with pytest.raises(EngineFailed, match=r"no room in the cluster for 1 CPU, on 10\.0\.0\.9"):
        await pool.start("r@3", _launch(*SLEEPER, needs=Needs(nodes=("10.0.0.9",))))


async def test_what_stood_by_reserves_the_memory_of_the_replica_that_it_becomes(
    pool: SocketPool, tmp_path: Path
) -> None:
    module, path = "outpace.engines.echo_server", f"{tmp_path}/e.sock"
    standby = await pool.stand_by("standby@echo-1", standby_launch(module))
    echo = launch_module(module, EchoConfig(address=f"unix:{path}", model="echo"), path, "secret")
    mine = msgspec.structs.replace(echo, needs=Needs(memory_bytes=256 * 1024 * 1024))

    async def free_bytes() -> float:
        machines = await pool.machines()
        return next(each for each in machines if each.address == standby.machine).free["memory"]

    before = await free_bytes()
    taken = await pool.hand_over("standby@echo-1", "chat@1", mine)
    assert taken.pid == standby.pid

    async def is_reserved() -> bool:
        return before - await free_bytes() >= mine.needs.memory_bytes

    await until(is_reserved)
    await pool.stop("chat@1", grace_s=0.0)

    async def is_returned() -> bool:
        return await free_bytes() >= before

    await until(is_returned)
    await pool.stand_by("standby@echo-2", standby_launch(module))
    greedy = msgspec.structs.replace(echo, needs=Needs(memory_bytes=1 << 50))
    with pytest.raises(EngineFailed, match=r"cannot become this replica: .* GiB of memory free"):
        await pool.hand_over("standby@echo-2", "chat@2", greedy)


async def test_a_replica_over_two_machines_has_a_process_on_each_and_ends_as_one(
    pool: SocketPool, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    tells = (
        "import os, signal, sys\n"
        f"open({str(told)!r}, 'a').write(' '.join([*sys.argv[1:], str(os.getpid())]) + chr(10))\n"
        "signal.pause()"
    )
    argv = (*python(tells), "first")
    follower = (*argv[:-1], "{rank}", "{first_address}")
    launch = Launch(
        argv=argv, follower_argv=follower, address="unix:/nowhere", token="t", needs=Needs(num_machines=2)
    )
    child = await pool.start("r@1", launch)

    async def both() -> bool:
        return told.exists() and len(told.read_text().splitlines()) == 2

    await until(both)
    lines = [line.split() for line in told.read_text().splitlines()]
    first = next(line for line in lines if line[0] == "first")
    second = next(line for line in lines if line[0] == "1")
    assert second[1] == child.machine
    os.kill(int(second[-1]), signal.SIGKILL)

    async def has_ended() -> bool:
        (end,) = await pool.replicas()
        return end.exit_code is not None and not is_running(int(first[-1]))

    await until(has_ended)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1:1", "nothing answers"),
        ("ray://h:1", "client's address"),
        ("nonsense", "HOST:PORT"),
        ("h:0", "HOST"),
    ],
)
def test_an_address_where_no_head_is_fails_at_once(address: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        require_cluster(address, is_open=False)


def test_a_wrong_token_is_told_with_the_remedy(ray: RayCluster, tmp_path: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("f" * 64)
    with pytest.raises(InvalidInput, match="does not take our token"):
        require_cluster(ray.address, is_open=False, env={"RAY_AUTH_TOKEN_PATH": str(wrong)})
    require_cluster(ray.address, is_open=False, env={"RAY_AUTH_TOKEN_PATH": str(ray.token)})


async def test_what_is_no_ray_is_told(unused_tcp_port: int) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", unused_tcp_port)
    async with server:
        with pytest.raises(InvalidInput, match="no Ray head"):
            await asyncio.to_thread(require_cluster, f"127.0.0.1:{unused_tcp_port}", is_open=False)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
