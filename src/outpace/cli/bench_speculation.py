"""`outpace bench speculation`: does guessing tokens ahead pay on this machine, at which load, on which text?"""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from outpace.cli.bench_options import LoadsOption, RoundsOption, loads_of, progress
from outpace.cli.options import HomeOption, JsonOption, home_at
from outpace.cli.show import as_json, table
from outpace.cli.weights import fetch_weights

if TYPE_CHECKING:
    from outpace.lab.speculating import Trial
    from outpace.values.home import Home

_EXAMPLE = "Example: outpace bench speculation --methods ngram,ngram-simple --users 1,8,32"


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command("speculation", epilog=_EXAMPLE)(speculation)


def speculation(
    model: Annotated[
        str, typer.Option("--model", help="Catalogue id, or path of a GGUF.")
    ] = "smollm2-135m-instruct",
    engine: Annotated[
        str, typer.Option("--engine", help="llamacpp, or openvino, which is told request by request.")
    ] = "llamacpp",
    methods: Annotated[
        str, typer.Option("--methods", help="Methods to try, by commas; `draft:MODEL` too.")
    ] = "ngram,ngram-simple",
    workloads: Annotated[
        str, typer.Option("--workloads", help="Workloads by name, by commas.")
    ] = "code,chat",
    loads: LoadsOption = "1,8,32",
    rounds: RoundsOption = 3,
    tokens: Annotated[int, typer.Option("--tokens", min=8, max=4096, help="Longest answer.")] = 96,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Ask replicas with and without speculation the same questions in turns, and show the gain by load.

    The last lines say what `speculation: auto` would do with these figures.
    """
    place = home_at(home)
    place.make()
    fetch_weights(place, model, is_quiet=json)
    trial = _trial(
        place, (model, engine), (methods.split(","), workloads.split(",")), loads_of(loads), rounds, tokens
    )
    if json:
        import msgspec

        as_json(msgspec.to_builtins(trial))
        return
    _say(trial)


def _trial(
    home: "Home",
    served: tuple[str, str],
    wanted: tuple[list[str], list[str]],
    loads: tuple[int, ...],
    rounds: int,
    tokens: int,
) -> "Trial":
    from outpace.hardware.machine import usable_cores
    from outpace.lab.compare import Plan
    from outpace.lab.speculating import try_methods, variant_here
    from outpace.lab.workload import named
    from outpace.values.clock import SystemClock

    methods, names = wanted
    plan = Plan(
        workloads=tuple(named(name) for name in names),
        loads=loads,
        rounds=rounds,
        per_user=1,
        most_output_tokens=tokens,
    )
    model, engine = served
    variant = variant_here(home, model, usable_cores(), engine)
    with progress("bench speculation") as watcher:
        return asyncio.run(try_methods(home, variant, methods, plan, SystemClock(), watcher))


def _say(trial: "Trial") -> None:
    typer.echo(f"{trial.model} on {trial.engine_version}\n  {trial.machine}\n")
    columns = [
        "workload",
        "users>",
        "method",
        "tok/s>",
        "× off>",
        "guesses>",
        "right>",
        "TTFT ms>",
        "ITL ms>",
    ]
    rows = []
    for run in trial.runs:
        figures, gain = run.middle, trial.gain(run)
        drafted = sum(each.drafted_tokens for each in run.rounds)
        accepted = sum(each.accepted_tokens for each in run.rounds)
        rows.append(
            (
                run.workload,
                run.users,
                run.side,
                f"{figures.output_tokens_per_s:.1f}",
                None if gain is None else f"{gain:.2f}",
                drafted,
                f"{accepted / drafted:.0%}" if drafted else None,
                f"{figures.ttft_ms.p50:.0f}" if figures.ttft_ms else None,
                f"{figures.itl_ms.p50:.1f}" if figures.itl_ms else None,
            )
        )
    table(columns, rows)
    typer.echo(f"\nauto: {trial.choice.method or 'off'}   {trial.choice.reason}")
