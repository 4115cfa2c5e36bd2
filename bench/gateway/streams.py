"""`python -m bench.gateway.streams [--streams N] [--seconds S]`

N open streams at 20 chunks/s each through one worker on the echo engine: every stream must end whole, and the worker's
memory must not grow while they run.
"""

import argparse
import asyncio
import json
import tempfile
from pathlib import Path

import uvloop

from bench.gateway.cpu import cpu_s, rss_bytes
from bench.gateway.load import Round, http_post, run_round
from bench.gateway.targets import Target, outpace

CHUNKS_PER_S = 20


async def run(target: Target, streams: int, seconds: int) -> tuple[Round, list[int], float]:
    """The round, the worker's resident bytes each second, and its CPU seconds."""
    body = {
        "model": target.model,
        "messages": [{"role": "user", "content": f"echo:token_interval_ms={1000 // CHUNKS_PER_S} go"}],
        "max_tokens": CHUNKS_PER_S * seconds,
        "stream": True,
    }
    message = http_post("/v1/chat/completions", json.dumps(body).encode(), target.key)
    resident: list[int] = []
    before_s = cpu_s(list(target.pids))
    load = asyncio.create_task(run_round(target.port, message, connections=streams, requests=streams))
    while not load.done():
        await asyncio.sleep(1)
        resident.append(rss_bytes(list(target.pids)))
    return await load, resident, cpu_s(list(target.pids)) - before_s


def main() -> None:
    """Run it, print it, exit 1 when a stream was cut."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway.streams", description=__doc__)
    parser.add_argument("--streams", type=int, default=1_000)
    parser.add_argument("--seconds", type=int, default=15)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        outpace(Path(folder) / "home", model="echo") as target,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        done, resident, used_s = runner.run(run(target, options.streams, options.seconds))
    tokens = options.seconds * CHUNKS_PER_S
    whole = sum(sample.status == 200 and sample.events >= tokens for sample in done.samples)
    print(f"{whole} of {options.streams} streams whole, {done.events:,} events in {done.wall_s:.1f} s")
    print(f"worker: {used_s / done.wall_s:.0%} of a core, {1e6 * used_s / done.events:.0f} µs per event")
    middle = resident[len(resident) // 3]
    print(f"resident MB each second: {', '.join(f'{value / 1e6:.0f}' for value in resident)}")
    print(f"growth after the first third: {(resident[-2] - middle) / 1e6:+.1f} MB")
    raise SystemExit(whole != options.streams)


if __name__ == "__main__":
    main()
