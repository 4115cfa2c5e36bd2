"""`python -m bench.moves [--kills N] [--model NAME] [--tokens N]`

Two replicas of a real model; each round one greedy stream is asked, and the replica that serves it is killed with
SIGKILL in mid-stream. Counts the answers that are whole, equal to the undisturbed one, and in the ledger with the
tokens that were answered.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from bench.gateway.targets import Target, outpace
from bench.kills import Admin

PROMPTS = (
    "Tell me about the sea.",
    "How does a bicycle work?",
    "Write a letter to a friend about the spring.",
)
_SPREAD = 0.7


async def stream(
    session: aiohttp.ClientSession, target: Target, prompt: str, tokens: int, on_event: Any = None
) -> tuple[str, str, int, bool]:
    """Request id, text, completion tokens and whether the stream came to its end."""
    body = {
        "model": target.model, "messages": [{"role": "user", "content": prompt}], "max_tokens": tokens,
        "temperature": 0, "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    url = f"http://127.0.0.1:{target.port}/v1/chat/completions"
    text, used, is_whole, seen = "", 0, False, 0
    async with session.post(url, json=body, headers={"authorization": f"Bearer {target.key}"}) as answer:
        async for line in answer.content:
            is_whole = is_whole or line.startswith(b"data: [DONE]")
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            text += "".join(c["delta"].get("content") or "" for c in event.get("choices", ()))
            used = (event.get("usage") or {}).get("completion_tokens", used)
            seen += 1
            if on_event is not None:
                on_event(seen)
        return answer.headers["x-request-id"], text, used, is_whole


async def ready_pids(admin: Admin, count: int) -> dict[str, int]:
    """The replicas, as soon as `count` are ready."""
    async with asyncio.timeout(120):
        while True:
            status = await admin.get("/admin/status")
            (entry,) = status["deployments"]
            ready = {each["id"]: each["pid"] for each in entry["replicas"] if each["state"] == "ready"}
            if len(ready) >= count:
                return ready
            await asyncio.sleep(0.1)


def processor_s(pid: int) -> float:
    """What a process has computed so far: of two replicas the one that works serves the stream."""
    with suppress(OSError):
        user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return 0.0


async def receipt(admin: Admin, request_id: str) -> Any:
    """The receipt, as soon as the ledger has it."""
    async with asyncio.timeout(30):
        while True:
            found = await admin.get(f"/admin/receipts/{request_id}")
            if "error" not in found and found.get("outcome"):
                return found
            await asyncio.sleep(0.05)


async def run(target: Target, home: Path, kills: int, tokens: int, seed: int) -> Counter[str]:
    """All rounds."""
    choose, seen = random.Random(seed), Counter[str]()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=180)) as session:
        admin = Admin(home, session)
        await ready_pids(admin, 2)
        wanted = {}
        for prompt in PROMPTS:
            _, *wanted[prompt], _ = await stream(session, target, prompt, tokens)
        for number in range(kills):
            prompt = PROMPTS[number % len(PROMPTS)]
            await admin.want(target.model, 2)
            pids = await ready_pids(admin, 2)
            at = choose.randint(2, int(tokens * _SPREAD))
            before_s = {pid: processor_s(pid) for pid in pids.values()}

            def kill(count: int, at: int = at, before_s: dict[int, float] = before_s) -> None:
                if count >= at and before_s:
                    used_s = {pid: processor_s(pid) - was_s for pid, was_s in before_s.items()}
                    victim = max(used_s, key=used_s.__getitem__)
                    before_s.clear()
                    with suppress(ProcessLookupError):
                        os.kill(victim, signal.SIGKILL)

            request_id, text, used, is_whole = await stream(session, target, prompt, tokens, kill)
            found = await receipt(admin, request_id)
            moves = (found.get("serving") or {}).get("moves", 0)
            if is_whole and text != wanted[prompt][0]:
                difference = {"killed at": at, "moves": moves, "wanted": wanted[prompt][0], "got": text}
                print(f"\n{json.dumps(difference)}", file=sys.stderr)
            if not is_whole:
                print(f"\n{json.dumps(found)}", file=sys.stderr)
            seen["rounds"] += 1
            seen["moved"] += bool(moves)
            seen["whole"] += is_whole
            seen["equal"] += is_whole and text == wanted[prompt][0]
            seen["ledger exact"] += found["usage"]["completion_tokens"] == used == wanted[prompt][1]
            print(f"\r{dict(seen)}", end="", file=sys.stderr, flush=True)
    return seen


def main() -> None:
    """Run it and print the counts."""
    parser = argparse.ArgumentParser(prog="python -m bench.moves", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        with outpace(home, model=options.model) as target:
            scale = [sys.executable, "-m", "outpace.cli.app", "scale", options.model, "2"]
            subprocess.run(scale, check=True, env={**os.environ, "OUTPACE_HOME": str(home)})
            seen = asyncio.run(run(target, home, options.kills, options.tokens, options.seed))
    print(f"\n{dict(seen)}")


if __name__ == "__main__":
    main()
