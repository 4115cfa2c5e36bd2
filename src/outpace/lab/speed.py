"""How fast formats are on this machine, measured side by side in turns, and kept."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import aiohttp
import msgspec

from outpace.engines.registry import engine
from outpace.lab.gate import engine_version, kv_settings
from outpace.lab.making import Product
from outpace.lab.replica import LabVariant, running
from outpace.values.clock import Clock
from outpace.values.errors import EngineFailed

USERS = 8
# What formats are compared with: llama.cpp spins between threads, and beside other work two measure the waiting.
THREADS = 1
_TOKENS = 48
_CONTEXT_TOKENS = 1024
_DEADLINE_S = 300.0
# Part of what a kept figure holds for: another way to measure makes another figure.
_HOW = f"{USERS} users, {THREADS} thread, {_TOKENS} tokens"


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """Output tokens per second of eight users together, by the clock and per second of processor time."""

    output_tokens_per_s: float
    # Not moved by other programs: what formats are compared by on a busy machine.
    output_tokens_per_cpu_s: float
    rounds: int
    measured_at: float


class SpeedStore:
    """Measured speeds of one installation, by what they hold for."""

    def __init__(self, folder: Path, machine: str) -> None:
        self._path = folder / "speeds.json"
        self._machine = machine

    def find(self, artifact_sha256: str, kv_precision: str) -> Speed | None:
        """The speed of an artifact here, with the engine that is installed."""
        return self._all().get(self._key(artifact_sha256, kv_precision))

    def keep(self, artifact_sha256: str, kv_precision: str, speed: Speed) -> None:
        """Write it, the others unchanged."""
        kept = {**self._all(), self._key(artifact_sha256, kv_precision): speed}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(f".{os.getpid()}")
        part.write_bytes(msgspec.json.format(msgspec.json.encode(kept)))
        part.replace(self._path)

    def _key(self, artifact_sha256: str, kv_precision: str) -> str:
        return "|".join((artifact_sha256, kv_precision, engine_version(), self._machine, _HOW))

    def _all(self) -> Mapping[str, Speed]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, Speed])
        except (OSError, msgspec.DecodeError):
            return {}


async def measure_speeds(
    pairs: Sequence[tuple[Product, str]], threads: int, rounds: int, clock: Clock
) -> dict[tuple[str, str], Speed]:
    """Speed by artifact and KV format; they take turns, so that a slow minute meets all alike."""
    seen: dict[tuple[str, str], list[tuple[float, float]]] = {(one.sha256, kv): [] for one, kv in pairs}
    for _ in range(rounds):
        for product, kv in pairs:
            seen[product.sha256, kv].append(await _one_round(product, threads, kv, clock))
    return {
        pair: Speed(
            output_tokens_per_s=median(by_clock for by_clock, _ in rates),
            output_tokens_per_cpu_s=median(by_cpu for _, by_cpu in rates),
            rounds=rounds,
            measured_at=clock.wall_s(),
        )
        for pair, rates in seen.items()
    }


async def _one_round(product: Product, threads: int, kv_precision: str, clock: Clock) -> tuple[float, float]:
    variant = LabVariant(
        model=product.model,
        artifact_path=product.path,
        context_tokens=_CONTEXT_TOKENS,
        parallel=USERS,
        threads=threads,
        engine_settings=kv_settings(kv_precision),
    )
    async with running(engine("llamacpp"), variant, clock) as replica:
        session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(replica.address.removeprefix("unix:")),
            headers={"Authorization": f"Bearer {replica.token}"},
            timeout=aiohttp.ClientTimeout(total=_DEADLINE_S),
        )
        async with session:
            await _user(session, 0, 4)
            began_s, began_cpu_s = clock.monotonic_s(), _cpu_s(replica.pid)
            done = await asyncio.gather(*(_user(session, number, _TOKENS) for number in range(USERS)))
            spent_s, spent_cpu_s = clock.monotonic_s() - began_s, _cpu_s(replica.pid) - began_cpu_s
    return sum(done) / spent_s, sum(done) / max(spent_cpu_s, 1e-9)


async def _user(session: aiohttp.ClientSession, number: int, tokens: int) -> int:
    body = {"prompt": f"Tell me story number {number} about the sea.", "n_predict": tokens, "temperature": 0}
    try:
        async with session.post("http://replica/completion", json={**body, "ignore_eos": True}) as answer:
            answer.raise_for_status()
            return int((await answer.json())["tokens_predicted"])
    except (aiohttp.ClientError, TimeoutError) as error:
        raise EngineFailed(f"llama.cpp did not answer while its speed was measured: {error}") from error


def _cpu_s(pid: int) -> float:
    """Processor time of all threads; fields 14 and 15 of proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
