"""`outpace bench layers`: what each layer adds on this machine, from naive serving to cached prefixes."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outpace.cli.bench_options import LoadsOption, RoundsOption, loads_of, progress
from outpace.cli.options import HomeOption, JsonOption, home_at
from outpace.cli.show import as_json, table
from outpace.cli.weights import fetch_weights

if TYPE_CHECKING:
    from outpace.lab.compare import Plan
    from outpace.lab.layers import Factor, Story, Weights
    from outpace.values.home import Home

_EXAMPLE = "Example: outpace bench layers --html layers.html"


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command("layers", epilog=_EXAMPLE)(layers)


def layers(
    model: Annotated[
        str, typer.Option("--model", help="Catalogue id, or path of a GGUF.")
    ] = "smollm2-135m-instruct",
    loads: LoadsOption = "1,8,32",
    rounds: RoundsOption = 2,
    tokens: Annotated[int, typer.Option("--tokens", min=8, max=4096, help="Longest answer.")] = 64,
    naive: Annotated[
        bool, typer.Option("--naive/--no-naive", help="Begin with transformers, one request at a time.")
    ] = True,
    html: Annotated[Path | None, typer.Option("--html", help="Write a report with plots there.")] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Serve one model in ever better ways, with the same requests, and show what each step brings.

    Naive serving needs the extra `naive` (torch, transformers); without it the story begins one step later. Takes
    some minutes of the whole machine; stop what else runs.
    """
    from outpace.lab.compare import Plan
    from outpace.lab.layers import factors

    plan = Plan(workloads=(), loads=loads_of(loads), rounds=rounds, per_user=1, most_output_tokens=tokens)
    story = _story(home_at(home), model, plan, has_naive=naive, is_quiet=json)
    if html is not None:
        from outpace.lab.layers_report import story_html

        html.write_text(story_html(story), encoding="utf-8")
    if json:
        as_json(_document(story))
        return
    _say(story, factors(story))
    if html is not None:
        typer.echo(f"\nwrote {html}")


def _story(home: "Home", model: str, plan: "Plan", *, has_naive: bool, is_quiet: bool) -> "Story":
    from outpace.engines.facts import engine_version
    from outpace.hardware.machine import detect, usable_cores
    from outpace.lab.layers import Story, tell_story
    from outpace.values.clock import SystemClock

    home.make()
    fetch_weights(home, model, is_quiet=is_quiet)
    weights, clock = _weights(home, model, has_naive=has_naive), SystemClock()
    with progress("bench layers") as watcher:
        runs, skipped = asyncio.run(tell_story(weights, plan, usable_cores(), clock, watcher))
    return Story(
        model=weights.model,
        served_precision=weights.served_precision,
        machine=detect().summary,
        engine_version=engine_version("llamacpp") or "llama.cpp",
        measured_at=clock.wall_s(),
        loads=plan.loads,
        rounds=plan.rounds,
        runs=tuple(runs),
        skipped=skipped,
    )


def _weights(home: "Home", model: str, *, has_naive: bool) -> "Weights":
    """The model as it is served here, exact, and unpacked for transformers where that is installed."""
    from outpace.hardware.machine import detect
    from outpace.lab.checkpoints import PLAIN, produce_checkpoint
    from outpace.lab.layers import Weights
    from outpace.lab.making import REFERENCE, produce, source_of
    from outpace.lab.naive import is_installed
    from outpace.lab.precisions import Precisions
    from outpace.lab.proven import SAFER_FORMATS
    from outpace.values.clock import SystemClock

    source = source_of(model, home.artifacts)
    chosen = Precisions(home.artifacts, detect(), SystemClock()).choose(model)
    folder = None
    if has_naive and is_installed():
        folder = produce_checkpoint(model, PLAIN, home.artifacts).path
    return Weights(
        model=source.model,
        exact=produce(source, REFERENCE, home.artifacts).path,
        served=chosen.product.path,
        served_precision=chosen.choice.precision,
        many=produce(source, SAFER_FORMATS[0], home.artifacts).path,
        folder=folder,
    )


def _document(story: "Story") -> dict[str, Any]:
    import msgspec

    from outpace.lab.layers import factors

    document: dict[str, Any] = msgspec.to_builtins(story)
    document["factors"] = msgspec.to_builtins(factors(story))
    return document


def _say(story: "Story", made: "list[Factor]") -> None:
    typer.echo(f"{story.model}, served as {story.served_precision}, on {story.engine_version}")
    typer.echo(f"  {story.machine}\n")
    columns = ["layer", "workload", "users>", "tok/s>", "× before>", "× first>", "TTFT ms>", "ITL ms>"]
    table(columns, map(_row, made))
    for name, why in story.skipped.items():
        typer.echo(f"\n{name} is left out: {why}")


def _row(factor: "Factor") -> tuple[object, ...]:
    return (
        factor.layer,
        factor.workload,
        factor.users,
        f"{factor.output_tokens_per_s:.1f}",
        None if factor.over_before is None else f"{factor.over_before:.2f}",
        None if factor.over_first is None else f"{factor.over_first:.2f}",
        None if factor.ttft_ms is None else f"{factor.ttft_ms:,.0f}",
        None if factor.itl_ms is None else f"{factor.itl_ms:.1f}",
    )
