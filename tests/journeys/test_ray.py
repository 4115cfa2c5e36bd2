"""More than one machine (docs/guides/ray.md): the same commands, a machine dies, nothing is left behind."""

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fleet.launching import SLEEPER
from tests.fleet.ray_cluster import HEAD, SECOND, THIRD, PoolsProcess, RayCluster, argv_of, may_hide
from tests.journeys.conftest import CHAT, Platform, until

from outpace.fleet.local import SocketPool
from outpace.values.deployment import Launch, Needs
from outpace.values.home import Home


class OnRay(Platform):
    """A platform whose replicas run on the machines of a cluster."""

    def __init__(self, root: Path, cluster: RayCluster) -> None:
        super().__init__(root)
        self._cluster = cluster

    @property
    def env(self) -> dict[str, str]:
        return {**self._cluster.env, "OUTPACE_HOME": str(self.home.root)}


@pytest.fixture
def platform_on_ray(ray: RayCluster, tmp_path: Path) -> Iterator[OnRay]:
    started = OnRay(tmp_path / "on-ray", ray)
    yield started
    started.run("down")
    assert started.processes() == []


async def _leave_room_only_on_second(pool: SocketPool) -> None:
    """A replica that takes a whole machine, on the head."""
    everything = Launch(argv=SLEEPER, address="unix:/nowhere", token="t", needs=Needs(cpus=2))
    both = [await pool.start(f"filler@{number}", everything) for number in (1, 2)]
    await pool.stop(next(child.name for child in both if child.machine == SECOND), grace_s=0.0)
    async with asyncio.timeout(20):
        while len([child for child in await pool.replicas() if child.exit_code is None]) > 1:
            await asyncio.sleep(0.05)


async def _stop_all(pool: SocketPool) -> None:
    for child in await pool.replicas():
        await pool.stop(child.name, grace_s=0.0)


def _replica(platform: Platform) -> Any:
    (deployment,) = platform.json("status")["deployments"]
    return deployment["replicas"][0]


def _keepers() -> list[int]:
    """Keepers of replicas, on whatever machine of the cluster."""
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    return [pid for pid in pids if argv_of(pid)[:3] == [sys.executable, "-m", "outpace.fleet.keeper"]]


def test_a_machine_dies_and_its_replica_serves_from_another(
    platform_on_ray: OnRay, ray: RayCluster, ray_pools: PoolsProcess, tmp_path: Path
) -> None:
    fillers = ray_pools.pool(Home(tmp_path / "fillers"))
    asyncio.run(_leave_room_only_on_second(fillers))
    platform_on_ray.up("--ray", ray.address, "--model", CHAT)
    asyncio.run(_stop_all(fillers))
    status = platform_on_ray.json("status")
    assert {machine["address"] for machine in status["machines"]} >= {HEAD, SECOND}
    before = _replica(platform_on_ray)
    assert before["machine"] == SECOND
    with platform_on_ray.client() as client:

        def answer() -> str:
            question: Any = {"role": "user", "content": "What is the capital of France? One sentence."}
            said = client.chat.completions.create(
                model=CHAT, messages=[question], max_tokens=16, temperature=0
            )
            return said.choices[0].message.content or ""

        assert "Paris" in answer()
        ray.crash(SECOND)
        try:
            until(lambda: _replica(platform_on_ray)["machine"] == HEAD, deadline_s=60.0)
            # Held by the gateway until the replica is ready on the machine that is left.
            assert "Paris" in answer()
        finally:
            ray.begin(SECOND)
            ray.ready(SECOND)
    assert _keepers() != []
    platform_on_ray.run("down")
    assert _keepers() == []
    assert not Path(f"/proc/{before['pid']}").exists()


@pytest.mark.skipif(not may_hide(), reason="needs the right to mount")
def test_a_machine_with_another_home_and_no_weights_serves(platform_on_ray: OnRay, ray: RayCluster) -> None:
    home = platform_on_ray.home
    home.make()
    ray.begin(THIRD, labels={"zone": "far"}, without=home.root)
    ray.ready(THIRD)
    try:
        platform_on_ray.up("--ray", ray.address, "--model", "none", "--no-profile")
        spec = home.root / "far.json"
        spec.write_text(json.dumps({"name": CHAT, "model": CHAT, "placement": {"nodes": ["10.9.9.9"]}}))
        refused = platform_on_ray.run("deploy", str(spec), "--yes", exit_code=1)
        assert "placement.nodes: no machine 10.9.9.9; the cluster has" in refused
        spec.write_text(json.dumps({"name": CHAT, "model": CHAT, "placement": {"labels": {"zone": "far"}}}))
        platform_on_ray.run("deploy", str(spec), "--yes")
        assert _replica(platform_on_ray)["machine"] == THIRD
        (deployment,) = platform_on_ray.json("status")["deployments"]
        assert deployment["starts"][-1]["phases_s"]["fetch"] > 0
        # Other tests have sent theirs to the same machine.
        (pulled,) = (home.artifacts / "sha256").glob("*/weights.gguf")
        assert (ray.weights_dir(THIRD) / "sha256" / pulled.parent.name).exists()
        with platform_on_ray.client() as client:
            question: Any = {"role": "user", "content": "What is the capital of France? One sentence."}
            said = (
                client.chat.completions.create(model=CHAT, messages=[question], max_tokens=16, temperature=0)
                .choices[0]
                .message.content
            )
            assert "Paris" in (said or "")
    finally:
        platform_on_ray.run("down")
        ray.crash(THIRD)


def test_an_address_where_no_head_answers_is_told_at_once(platform_on_ray: OnRay) -> None:
    said = platform_on_ray.run("up", "--ray", "127.0.0.1:1", "--model", "none", exit_code=1, timeout_s=30.0)
    assert "nothing answers at 127.0.0.1:1" in said
