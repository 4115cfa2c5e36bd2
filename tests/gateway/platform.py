"""A gateway worker as a real process in front of a real echo engine, with a snapshot written by hand.

No control runs here: everything that passes shows what the gateway does alone.
"""

import asyncio
import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from outpace.metering import Counters
from outpace.settings import Settings
from outpace.values import records, snapshot
from outpace.values.home import Home
from outpace.values.money import Price
from outpace.values.records import Record, Settled
from outpace.values.snapshot import DeploymentEntry, KeyEntry, ReplicaEntry, Snapshot

PRICE = Price(input_pusd=1_000, output_pusd=2_000, cached_input_pusd=1_000)
SECRET = "op-test-key"


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Platform:
    """One home, its engine and its workers."""

    root: Path
    port: int = field(default_factory=free_port)
    workers: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    engines: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    keys: dict[str, KeyEntry] = field(default_factory=dict)
    deployments: dict[str, DeploymentEntry] = field(default_factory=dict)
    version: int = 0
    num_workers: int = 1

    def __post_init__(self) -> None:
        self.home = Home(self.root / "h")
        self.home.make()
        self.counters = Counters.open(self.home.counters)
        self.counters.load_bases({})
        settings = Settings(home=str(self.home.root), port=self.port, grace_s=5.0, workers=self.num_workers)
        self._settings = self.root / "settings.json"
        self._settings.write_bytes(msgspec.json.encode(settings))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start_engine(self, name: str = "echo", switches: Mapping[str, object] | None = None) -> str:
        """An echo process; its address."""
        path = self.home.sockets / f"{name}.sock"
        config = {"address": f"unix:{path}", "switches": {"context_tokens": 8_192, **(switches or {})}}
        argv = [
            sys.executable,
            "-m",
            "outpace.engines.echo_server",
            "--config",
            msgspec.json.encode(config).decode(),
        ]
        self.engines[name] = subprocess.Popen(argv)
        return f"unix:{path}"

    def add_key(self, secret: str = SECRET, **fields: Any) -> KeyEntry:
        """A key in the next snapshot."""
        slot = len(self.keys)
        known: dict[str, Any] = {"id": f"key-{slot}", "name": secret, "slot": slot, "scopes": ("inference",)}
        key = KeyEntry(**(known | fields))
        self.keys[hashlib.sha256(secret.encode()).hexdigest()] = key
        return key

    def deploy(self, name: str, addresses: list[str], **fields: Any) -> None:
        """A deployment in the next snapshot."""
        replicas = tuple(ReplicaEntry(id=f"{name}-{number}", address=a) for number, a in enumerate(addresses))
        known: dict[str, Any] = {
            "name": name, "model": name, "engine_model": name, "engine": "echo", "state": "ready",
            "created": 1_700_000_000, "owned_by": "test", "tasks": ("chat", "completions", "embeddings"),
            "context_tokens": 8_192, "price": PRICE, "replicas": replicas,
        }  # fmt: skip
        self.deployments[name] = DeploymentEntry(**(known | fields))

    def publish(self) -> None:
        """Write the snapshot as control does."""
        self.version += 1
        raw = snapshot.encode(
            Snapshot(version=self.version, written_at=0.0, keys=self.keys, deployments=self.deployments)
        )
        fresh = self.home.snapshot.with_suffix(".new")
        fresh.write_bytes(raw)
        fresh.rename(self.home.snapshot)

    def start_worker(self, env: Mapping[str, str] | None = None, **popen: Any) -> "subprocess.Popen[bytes]":
        """One more gateway process on the port."""
        argv = [
            sys.executable,
            "-m",
            "outpace.compose",
            "gateway",
            str(self._settings),
            str(len(self.workers)),
        ]
        worker = subprocess.Popen(argv, env={**os.environ, **(env or {})}, stderr=subprocess.PIPE, **popen)
        self.workers.append(worker)
        return worker

    def records(self) -> list[Record]:
        """Everything in all journals, torn last lines left out."""
        return [
            records.decode(line)
            for path in sorted(self.home.journal.glob("*.jsonl"))
            for line in path.read_bytes().split(b"\n")[:-1]
        ]

    async def settled(self, count: int) -> list[Settled]:
        """Settlements, as soon as there are `count`."""
        async with asyncio.timeout(10):
            while len(found := [r for r in self.records() if isinstance(r, Settled)]) < count:
                await asyncio.sleep(0.02)
        return found

    async def stats(self, name: str = "echo") -> dict[str, int]:
        """What the engine has counted."""
        connector = aiohttp.UnixConnector(str(self.home.sockets / f"{name}.sock"))
        async with (
            aiohttp.ClientSession(connector=connector) as client,
            client.get("http://e/stats") as answer,
        ):
            counted: dict[str, int] = await answer.json()
            return counted

    async def wait_until_up(self) -> None:
        """Every engine and worker answers."""
        async with asyncio.timeout(20):
            for name in self.engines:
                while not await self._engine_is_up(name):
                    await asyncio.sleep(0.02)
            while not await self._gateway_is_up():
                await asyncio.sleep(0.02)

    async def _engine_is_up(self, name: str) -> bool:
        with contextlib.suppress(aiohttp.ClientError, OSError):
            await self.stats(name)
            return True
        return False

    async def _gateway_is_up(self) -> bool:
        with contextlib.suppress(aiohttp.ClientError, OSError):
            async with aiohttp.ClientSession() as client, client.get(self.url + "/health") as answer:
                return answer.status == 200
        return False

    def close(self) -> None:
        """End every process that was started here, and wait for it."""
        for process in [*self.workers, *self.engines.values()]:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
        for process in [*self.workers, *self.engines.values()]:
            process.wait(timeout=10)
            if process.stderr is not None:
                process.stderr.close()
        self.counters.close()


@contextlib.contextmanager
def platform(root: Path, workers: int = 1) -> Iterator[Platform]:
    """A platform whose processes end with the block."""
    made = Platform(root, num_workers=workers)
    try:
        yield made
    finally:
        made.close()


@contextlib.asynccontextmanager
async def echo_platform(root: Path, *, workers: int = 1, **switches: object) -> AsyncIterator[Platform]:
    """One echo deployment called `echo`, one key, `workers` workers, all up."""
    with platform(root, workers) as made:
        made.add_key()
        made.deploy("echo", [made.start_engine(switches=switches)])
        made.publish()
        for _ in range(workers):
            made.start_worker()
        await made.wait_until_up()
        yield made
