"""`python -m bench.versus [--home DIR] [--rivals llamacpp,vllm] [--users N] [--rounds N] [--json FILE]`

The running platform's automatic choice against other servers at their best setting for many users: the same weights'
model, the same requests, in turns on one machine. A rival is started for its own rounds and ends before the next one.
Rates are by the usage that each server reports; the ratio is the median over neighbouring rounds.

- `llamacpp`: llama.cpp's own server (xllamacpp), Q4_0, USERS sequences of 1,024 tokens, a thread per core.
- `vllm`: vLLM's own server, from the interpreter that OUTPACE_VLLM_PYTHON names, USERS sequences, a thread per core,
  prefix caching on as it is by default. `vllm:float32` and `vllm:bfloat16` set its dtype.
"""

import argparse
import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from outpace.cli.credentials import Credentials, read_credentials
from outpace.cli.options import home_at
from outpace.engines.registry import engine
from outpace.hardware.machine import detect, usable_cores
from outpace.lab.compare import Plan, Run, Side, compare, found_run, gain_of
from outpace.lab.load import Target
from outpace.lab.making import produce, source_of
from outpace.lab.replica import LabVariant, running
from outpace.lab.workload import named
from outpace.values.clock import SystemClock
from outpace.values.home import Home

PLATFORM = "outpace"
WORKLOAD = "chat"
CONTEXT_TOKENS = 1024
# vLLM compiles for minutes at its start.
START_DEADLINE_S = 400.0
WARM_TOKENS = 32
GREEDY = {"temperature": 0, "ignore_eos": True}
# Format of the weights, and settings, by rival; vLLM unpacks the shipped GGUF to 16 bit.
LLAMACPP_FORMAT = "q4_0"
VLLM_DTYPE = "bfloat16"
VLLM_KV_GIB = 2.0


class Quiet:
    """Says each run's rate as it ends."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def began(self, side: str, workload: str, users: int, number: int) -> None:
        """Nothing is shown while it runs."""

    def ended(self, run: Run) -> None:
        """One line with the rates of all rounds."""
        rates = ", ".join(f"{figures.output_tokens_per_s:.1f}" for figures in run.rounds)
        self._console.print(f"  {run.side}: {rates} tok/s")


def variant(rival: str, model: str, users: int, home: Home) -> tuple[str, LabVariant]:
    """The engine's name and the rival's best setting."""
    name, _, dtype = rival.partition(":")
    source = source_of(model, home.artifacts)
    weights = produce(source, LLAMACPP_FORMAT, home.artifacts).path if name == "llamacpp" else source.path
    settings: dict[str, str | int | float | bool] = {}
    if name == "vllm":
        settings = {"dtype": dtype or VLLM_DTYPE, "cpu_kv_gib": VLLM_KV_GIB}
    return name, LabVariant(
        model=model,
        artifact_path=weights,
        artifacts_dir=str(home.artifacts),
        context_tokens=CONTEXT_TOKENS,
        parallel=users,
        threads=usable_cores(),
        engine_settings=settings,
    )


async def against(
    rival: str, credentials: Credentials, args: argparse.Namespace, console: Console
) -> list[Run]:
    """Runs of both sides, the first round of each left out."""
    name, started = variant(rival, args.model, args.users, Home(args.home))
    ours = Target(address=credentials.base_url, model=args.model, token=credentials.api_key, extra=GREEDY)
    watcher = Quiet(console)
    console.print(f"{rival}: starting")
    async with running(engine(name), started, SystemClock(), START_DEADLINE_S) as replica:
        theirs = Target(address=replica.address, model=args.model, token=replica.token, extra=GREEDY)
        sides = [Side(name=PLATFORM, target=ours), Side(name=rival, target=theirs)]
        plan = Plan(
            workloads=(named(WORKLOAD),), loads=(args.users,), rounds=args.rounds, per_user=args.per_user
        )
        warm = msgspec.structs.replace(plan, rounds=1, per_user=1, most_output_tokens=WARM_TOKENS)
        console.print(f"{rival}: warming both up")
        warmed = await compare(sides, warm, watcher)
        silent = [run.side for run in warmed if not run.middle.output_tokens_per_s]
        if silent:
            sys.exit(
                f"{' and '.join(silent)} answered nothing; does the platform run, and serve {args.model}?"
            )
        console.print(f"{rival}: in turns")
        return await compare(sides, plan, watcher)


def row(rival: str, runs: list[Run], users: int) -> dict[str, Any]:
    """Both sides' median round and the ratio."""
    sides = {side: found_run(runs, side, WORKLOAD, users) for side in (PLATFORM, rival)}
    found: dict[str, Any] = {"rival": rival, "ratio": gain_of(runs, PLATFORM, rival, WORKLOAD, users)}
    for label, run in zip((PLATFORM, "theirs"), sides.values(), strict=True):
        assert run is not None, "both were asked"
        found[label] = {
            "output_tokens_per_s": run.middle.output_tokens_per_s,
            "rounds_tokens_per_s": [each.output_tokens_per_s for each in run.rounds],
            "ttft_p50_ms": run.middle.ttft_ms.p50 if run.middle.ttft_ms else None,
            "itl_p50_ms": run.middle.itl_ms.p50 if run.middle.itl_ms else None,
            "errors": dict(sum((Counter(each.error_texts) for each in run.rounds), Counter())),
        }
    return found


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """One line for each rival."""
    table = Table(
        "rival",
        "outpace tok/s",
        "rival tok/s",
        "ratio",
        "TTFT p50 ms (rival)",
        "ITL p50 ms (rival)",
        "errors (rival)",
    )
    for each in rows:
        ours, theirs = each[PLATFORM], each["theirs"]
        table.add_row(
            each["rival"],
            f"{ours['output_tokens_per_s']:.1f}",
            f"{theirs['output_tokens_per_s']:.1f}",
            f"{each['ratio']:.2f}",
            f"{ours['ttft_p50_ms']:.0f} ({theirs['ttft_p50_ms']:.0f})",
            f"{ours['itl_p50_ms']:.1f} ({theirs['itl_p50_ms']:.1f})",
            f"{sum(ours['errors'].values())} ({sum(theirs['errors'].values())})",
        )
    console.print(table)
    for each in rows:
        for side in (PLATFORM, "theirs"):
            for text, count in each[side]["errors"].items():
                console.print(f"{count} of {each['rival'] if side == 'theirs' else side}: {text}")


async def measured(args: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """Every rival in turn."""
    credentials = read_credentials(Home(args.home))
    rows = []
    for rival in args.rivals.split(","):
        rows.append(row(rival, await against(rival, credentials, args, console), args.users))
        show(rows[-1:], console)
    return rows


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, default=home_at(None).root)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--rivals", default="llamacpp,vllm")
    parser.add_argument("--users", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--per-user", type=int, default=2, help="requests per user and round")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    console = Console(stderr=True)
    rows = asyncio.run(measured(args, console))
    if args.json:
        told = {"machine": detect().summary, "workload": WORKLOAD, "users": args.users, "rivals": rows}
        args.json.write_text(json.dumps(told, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
