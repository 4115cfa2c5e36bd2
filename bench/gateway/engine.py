"""`python -m bench.gateway.engine [--model NAME] [--rounds N] [--json FILE]`

A real model on llama.cpp: output tokens/s straight from the replica's own socket and through Outpace, alternating, at
1, 8 and 32 users. What a gateway costs when tokens cost something.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from bench.gateway.load import Round, http_post, run_round
from bench.gateway.targets import Target, outpace
from outpace.values.home import Home
from outpace.values.snapshot import decode

CHAT = "/v1/chat/completions"
USERS = (1, 8, 32)
MAX_TOKENS = 64
PROMPT = "Write a long story about a lighthouse keeper and the sea."


def payload(model: str) -> bytes:
    """The same request both ways."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    return json.dumps(body).encode()


def tokens_per_s(done: Round) -> float:
    """Output tokens over the round's wall time; every answer has exactly MAX_TOKENS."""
    return len(done.samples) * MAX_TOKENS / done.wall_s


async def compare(target: Target, home: Path, rounds: int, console: Console) -> list[dict[str, float]]:
    """Medians per number of users."""
    replica = decode(Home(home).snapshot.read_bytes()).deployments[target.model].replicas[0]
    ways: dict[str, tuple[int | str, bytes]] = {
        "direct": (
            replica.address.removeprefix("unix:"),
            http_post(CHAT, payload(target.model), replica.token),
        ),
        "outpace": (target.port, http_post(CHAT, payload(target.model), target.key)),
    }
    rows = []
    for users in USERS:
        found: dict[str, list[Round]] = {name: [] for name in ways}
        for number in range(rounds + 1):
            console.print(f"{users} users: round {number} of {rounds}", style="dim")
            for name in sorted(ways, reverse=bool(number % 2)):
                place, message = ways[name]
                requests = max(4, users)
                done = await run_round(place, message, connections=users, requests=requests)
                if done.errors:
                    raise SystemExit(f"{name}: {done.errors} requests failed")
                if number:
                    found[name].append(done)
        rows.append(_row(users, found))
    return rows


def _row(users: int, found: dict[str, list[Round]]) -> dict[str, float]:
    pairs = zip(found["outpace"], found["direct"], strict=True)
    return {
        "users": users,
        "direct_tokens_per_s": statistics.median(map(tokens_per_s, found["direct"])),
        "outpace_tokens_per_s": statistics.median(map(tokens_per_s, found["outpace"])),
        "ratio": statistics.median(tokens_per_s(ours) / tokens_per_s(theirs) for ours, theirs in pairs),
        "direct_ttft_ms": statistics.median(done.median_ms("first_s") for done in found["direct"]),
        "outpace_ttft_ms": statistics.median(done.median_ms("first_s") for done in found["outpace"]),
    }


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway.engine", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        with (
            outpace(home, model=options.model) as target,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            rows = runner.run(compare(target, home, options.rounds, Console(stderr=True)))
    table = Table(
        "users", "direct tok/s", "through Outpace tok/s", "ratio", "TTFT direct ms", "TTFT Outpace ms"
    )
    for row in rows:
        table.add_row(
            f"{row['users']:.0f}",
            f"{row['direct_tokens_per_s']:.1f}",
            f"{row['outpace_tokens_per_s']:.1f}",
            f"{row['ratio']:.3f}",
            f"{row['direct_ttft_ms']:.1f}",
            f"{row['outpace_ttft_ms']:.1f}",
        )
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
