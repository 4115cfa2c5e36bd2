"""`python -m bench.gateway [--smg PYTHON] [--rounds N] [--json FILE]`

Direct, smg (optional: an environment with `pip install smg==1.13.0`) and Outpace with everything on, side by side on
the echo engine: alternating rounds, medians over rounds. CPU is that of the gateway's processes alone.
"""

import argparse
import asyncio
import json
import platform
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from bench.gateway.cpu import cpu_s, rss_bytes
from bench.gateway.load import http_post, run_round
from bench.gateway.targets import Target, echo_engine, outpace, smg

CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class Scene:
    """One kind of load."""

    name: str
    connections: int
    requests: int
    prompt: str
    max_tokens: int
    stream: bool


SCENES = (
    Scene("unary 1", 1, 1_500, "hello there", 8, False),
    Scene("unary 32", 32, 6_000, "hello there", 8, False),
    Scene("stream 50, 20 ms", 50, 100, "echo:token_interval_ms=20 go", 60, True),
)


@dataclass
class Figures:
    """Per-round figures of one target in one scene."""

    cpu_us: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    ttft_ms: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)
    errors: int = 0


def message(target: Target, scene: Scene) -> bytes:
    """The request of a scene."""
    body = {
        "model": target.model,
        "messages": [{"role": "user", "content": scene.prompt}],
        "max_tokens": scene.max_tokens,
        "stream": scene.stream,
    }
    return http_post(CHAT, json.dumps(body).encode(), target.key)


async def measure(target: Target, scene: Scene, figures: Figures) -> None:
    """One round of one target."""
    before_s = cpu_s(list(target.pids))
    done = await run_round(
        target.port, message(target, scene), connections=scene.connections, requests=scene.requests
    )
    used_s = cpu_s(list(target.pids)) - before_s
    units = done.events if scene.stream else len(done.samples)
    figures.cpu_us.append(1e6 * used_s / units)
    figures.p50_ms.append(done.median_ms("total_s"))
    figures.p99_ms.append(done.quantile_ms("total_s", 0.99))
    figures.ttft_ms.append(done.median_ms("first_s"))
    figures.per_s.append(len(done.samples) / done.wall_s)
    figures.errors += done.errors


async def compare(targets: list[Target], rounds: int, console: Console) -> dict[str, dict[str, Figures]]:
    """All scenes, targets alternating, one unmeasured round first."""
    found: dict[str, dict[str, Figures]] = {scene.name: {} for scene in SCENES}
    for scene in SCENES:
        for target in targets:
            await measure(target, scene, Figures())
        for number in range(rounds):
            console.print(f"{scene.name}: round {number + 1} of {rounds}", style="dim")
            for target in targets if number % 2 else reversed(targets):
                await measure(target, scene, found[scene.name].setdefault(target.name, Figures()))
    return found


def show(found: dict[str, dict[str, Figures]], console: Console) -> None:
    """The table."""
    table = Table("load", "way", "CPU µs", "x smg", "p50 ms", "p99 ms", "TTFT ms", "requests/s", "errors")
    for scene, by_target in found.items():
        rival = statistics.median(by_target["smg"].cpu_us) if "smg" in by_target else None
        for name in ("direct", "smg", "outpace"):
            if name not in by_target:
                continue
            figures = by_target[name]
            cpu_us = statistics.median(figures.cpu_us)
            ratio = f"{cpu_us / rival:.2f}" if rival and name == "outpace" else ""
            numbers = (figures.p50_ms, figures.p99_ms, figures.ttft_ms)
            cells = [f"{statistics.median(values):.2f}" for values in numbers]
            per_s = f"{statistics.median(figures.per_s):,.0f}"
            shown_cpu = f"{cpu_us:.0f}" if name != "direct" else ""
            table.add_row(scene, name, shown_cpu, ratio, *cells, per_s, str(figures.errors))
    console.print(table)
    console.print(
        "CPU per request (unary) or per streamed event (stream), gateway processes only; medians of rounds."
    )


def summary(found: dict[str, dict[str, Figures]], rss: dict[str, int]) -> dict[str, object]:
    """The JSON form: medians, and the machine."""
    return {
        "machine": {"python": platform.python_version(), "processor": platform.machine(), "cores": _cores()},
        "rss_bytes": rss,
        "scenes": {
            scene: {
                name: {
                    "cpu_us": statistics.median(figures.cpu_us),
                    "p50_ms": statistics.median(figures.p50_ms),
                    "p99_ms": statistics.median(figures.p99_ms),
                    "ttft_ms": statistics.median(figures.ttft_ms),
                    "requests_per_s": statistics.median(figures.per_s),
                    "errors": figures.errors,
                }
                for name, figures in by_target.items()
            }
            for scene, by_target in found.items()
        },
    }


def _cores() -> int:
    return len(
        [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("processor")]
    )


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway", description=__doc__)
    parser.add_argument("--smg", type=Path, help="python of an environment with smg==1.13.0 installed")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    console = Console(stderr=True)
    with ExitStack() as stack:
        engine = stack.enter_context(echo_engine())
        targets = [engine]
        if options.smg:
            targets.append(stack.enter_context(smg(options.smg, engine)))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        targets.append(stack.enter_context(outpace(folder / "home", model="echo")))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found = runner.run(compare(targets, options.rounds, console))
        rss = {target.name: rss_bytes(list(target.pids)) for target in targets if target.pids}
    show(found, Console())
    if options.json:
        options.json.write_text(json.dumps(summary(found, rss), indent=1) + "\n")
    if any(figures.errors for by_target in found.values() for figures in by_target.values()):
        sys.exit("some requests failed")


if __name__ == "__main__":
    main()
