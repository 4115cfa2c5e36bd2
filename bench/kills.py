"""`python -m bench.kills [--kills N] [--model NAME] [--seed N]`

Kills control, a gateway worker or a replica with SIGKILL, N times, under load with keys, budgets and streams. Then
checks that every answer that a client got whole is in the ledger once with what was answered, that nothing stays
reserved, and that `outpace down` leaves no process.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from bench.gateway.targets import outpace
from outpace.values.clock import SystemClock

_clock = SystemClock()
WORKERS = 2
CLIENTS = 8


@dataclass
class Seen:
    """What the clients saw."""

    whole: dict[str, int] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)


class Admin:
    """The admin door."""

    def __init__(self, home: Path, session: aiohttp.ClientSession) -> None:
        credentials = json.loads((home / "credentials.json").read_text())
        self._url = credentials["admin_url"]
        self._headers = {"authorization": f"Bearer {credentials['admin_key']}"}
        self._session = session

    async def get(self, path: str) -> Any:
        """The JSON at `path`; waits out a control that is between two lives."""
        async with asyncio.timeout(60):
            while True:
                with suppress(aiohttp.ClientError):
                    async with self._session.get(self._url + path, headers=self._headers) as answer:
                        if answer.status < 500:
                            return await answer.json()
                await asyncio.sleep(0.1)

    async def want(self, deployment: str, replicas: int) -> None:
        """Want so many replicas once more: what has failed is started at once, without its back-off."""
        url, body = f"{self._url}/admin/deployments/{deployment}", {"replicas": replicas}
        async with self._session.patch(url, json=body, headers=self._headers) as answer:
            answer.raise_for_status()


async def client(
    session: aiohttp.ClientSession, url: str, key: str, model: str, seen: Seen, until: asyncio.Event
) -> None:
    """One client: short and long, streamed and not, until told to stop."""
    choose = random.Random(key)
    while not until.is_set():
        body = {
            "model": model,
            "messages": [{"role": "user", "content": "echo:token_interval_ms=5 say something"}],
            "max_tokens": choose.choice([2, 20, 60]),
            "stream": choose.random() < 0.6,
            "stream_options": None,
        }
        if body["stream"]:
            body["stream_options"] = {"include_usage": True}
        await ask(session, url, key, body, seen)


async def ask(session: aiohttp.ClientSession, url: str, key: str, body: dict[str, Any], seen: Seen) -> None:
    """One request and what became of it."""
    try:
        async with session.post(url, json=body, headers={"authorization": f"Bearer {key}"}) as answer:
            raw = await answer.read()
            if answer.status != 200:
                seen.outcomes[str(answer.status)] += 1
                await asyncio.sleep(0.05)
                return
            usage = usage_in(raw, is_stream=bool(body["stream"]))
            if usage is None:
                seen.outcomes["broken stream"] += 1
                return
            seen.outcomes["whole"] += 1
            seen.whole[answer.headers["x-request-id"]] = usage
    except (aiohttp.ClientError, TimeoutError):
        seen.outcomes["connection lost"] += 1
        await asyncio.sleep(0.05)


def usage_in(raw: bytes, *, is_stream: bool) -> int | None:
    """Completion tokens of a whole answer; None for one that was cut."""
    if not is_stream:
        return int(json.loads(raw)["usage"]["completion_tokens"])
    if not raw.rstrip().endswith(b"data: [DONE]"):
        return None
    events = [line[6:] for line in raw.split(b"\n") if line.startswith(b"data: {")]
    return int(json.loads(events[-1])["usage"]["completion_tokens"])


async def kill_often(admin: Admin, kills: int, choose: random.Random) -> Counter[str]:
    """Kill `kills` times, each time something that lives now."""
    killed: Counter[str] = Counter()
    while sum(killed.values()) < kills:
        await asyncio.sleep(choose.uniform(0.3, 1.2))
        status = await admin.get("/admin/status")
        victims = {worker["name"]: worker["pid"] for worker in status["workers"] if worker["pid"]}
        replicas = [replica["pid"] for entry in status["deployments"] for replica in entry["replicas"]]
        if alive := [pid for pid in replicas if pid]:
            victims["replica"] = choose.choice(alive)
        kind = choose.choice(["control", "gateway-0", "gateway-1", "replica"])
        if kind in victims:
            with suppress(ProcessLookupError):
                os.kill(victims[kind], signal.SIGKILL)
                killed[kind] += 1
    return killed


async def check(admin: Admin, seen: Seen, key_id: str) -> list[str]:
    """What is wrong; nothing, if all is well."""
    problems = []
    async with asyncio.timeout(60):
        while await held(admin, key_id) != "0":
            await asyncio.sleep(0.2)
    for request_id, completion_tokens in seen.whole.items():
        receipt = await admin.get(f"/admin/receipts/{request_id}")
        if "error" in receipt:
            problems.append(f"{request_id} is not in the ledger")
        elif receipt["usage"]["completion_tokens"] != completion_tokens:
            problems.append(f"{request_id}: {receipt['usage']} in the ledger, {completion_tokens} answered")
    return problems


async def held(admin: Admin, key_id: str) -> str:
    """Dollars that are still reserved."""
    keys = await admin.get("/admin/keys")
    return str(next(key["reserved_usd"] for key in keys if key["id"] == key_id))


async def run(home: Path, port: int, key: str, model: str, kills: int, seed: int) -> bool:
    """Load, kills, check, report; True when all is well."""
    seen, until = Seen(), asyncio.Event()
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        admin = Admin(home, session)
        key_id = next(entry["id"] for entry in await admin.get("/admin/keys") if entry["name"] == "bench")
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        began_s = _clock.monotonic_s()
        clients = [asyncio.create_task(client(session, url, key, model, seen, until)) for _ in range(CLIENTS)]
        killed = await kill_often(admin, kills, random.Random(seed))
        await asyncio.sleep(2)
        until.set()
        await asyncio.gather(*clients)
        problems = await check(admin, seen, key_id)
        print(f"killed {dict(killed)} in {_clock.monotonic_s() - began_s:.0f} s")
        print(f"clients saw {dict(seen.outcomes)}; whole answers checked in the ledger: {len(seen.whole)}")
    for problem in problems[:20]:
        print("WRONG:", problem)
    print("nothing reserved, every whole answer billed once" if not problems else f"{len(problems)} problems")
    return not problems


def main() -> None:
    """Run and exit 1 when anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m bench.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--model", default="echo")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        with outpace(home, model=options.model, workers=WORKERS) as target:
            assert target.key is not None
            is_well = asyncio.run(
                run(home, target.port, target.key, options.model, options.kills, options.seed)
            )
        left = processes_of(home)
        if left:
            print(f"WRONG: still running after `outpace down`: {left}")
    raise SystemExit(bool(left) or not is_well)


def processes_of(home: Path) -> list[int]:
    """Processes whose command line or environment names this home."""
    mark = str(home).encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int(process.name) != os.getpid() and mark in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


if __name__ == "__main__":
    main()
