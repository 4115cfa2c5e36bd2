"""`outpace bench load`: put a described load on an endpoint, and show what its users see."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outpace.cli.credentials import read_credentials
from outpace.cli.options import HomeOption, JsonOption, home_at
from outpace.cli.show import as_json, table
from outpace.settings import secret
from outpace.values.errors import InvalidInput

if TYPE_CHECKING:
    from outpace.lab.figures import LoadFigures, Quantiles
    from outpace.lab.load import LoadRun, Target
    from outpace.lab.workload import Conversation
    from outpace.values.home import Home

_EXAMPLE = "Example: outpace bench load --workload code --users 8 --requests 32"
_FILE_SUFFIXES = (".jsonl", ".csv")


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command("load", epilog=_EXAMPLE)(load)


def load(
    workload: Annotated[
        str,
        typer.Option(
            "--workload",
            help="Name (chat, code, multi-turn, …), your .jsonl, or a recorded trace (.jsonl, .csv).",
        ),
    ] = "chat",
    model: Annotated[
        str, typer.Option("--model", help="Name of the model at the endpoint.")
    ] = "smollm2-135m-instruct",
    users: Annotated[
        int | None, typer.Option("--users", min=1, max=1024, help="Closed loop of so many.  [default: 1]")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option("--rate", help="Open loop: requests per second; `0` takes the file's own times."),
    ] = None,
    requests: Annotated[int, typer.Option("--requests", min=1, help="Conversations to ask.")] = 32,
    url: Annotated[
        str | None, typer.Option("--url", help="http://…, or unix:/path.  [default: the platform here]")
    ] = None,
    key_env: Annotated[
        str | None, typer.Option("--key-env", help="Environment variable with the endpoint's key.")
    ] = None,
    own_lengths: Annotated[
        bool, typer.Option("--own-lengths", help="Let answers end by themselves (no `ignore_eos`).")
    ] = False,
    time_scale: Annotated[float, typer.Option("--time-scale", help="Multiplies a file's times.")] = 1.0,
    token_scale: Annotated[float, typer.Option("--token-scale", help="Multiplies a trace's lengths.")] = 1.0,
    seed: Annotated[int | None, typer.Option("--seed", help="Other requests of the same kind.")] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Ask an OpenAI-compatible endpoint what a workload describes: so many users, or so many requests a second.

    Rates count the tokens that the endpoint reports, not the pieces of its streams.
    """
    if users is not None and rate is not None:
        raise InvalidInput("--rate", "is an open loop, --users a closed one; give one of them")
    asked = _asked(workload, requests, seed, time_scale, token_scale)
    target = _target(home_at(home), url, key_env, model, own_lengths=own_lengths)
    run = asyncio.run(_run(target, asked, users or 1, rate))
    if json:
        as_json(_document(run, workload, users or 1, rate))
    else:
        _say(run.figures)
    if run.figures.errors:
        raise typer.Exit(1)


def _asked(
    workload: str, requests: int, seed: int | None, time_scale: float, token_scale: float
) -> "list[Conversation]":
    from outpace.lab.recorded import Scale
    from outpace.lab.recorded import load as load_file
    from outpace.lab.workload import conversations, named

    if workload.endswith(_FILE_SUFFIXES):
        return load_file(Path(workload), Scale(time=time_scale, tokens=token_scale), requests)
    return conversations(named(workload), requests, seed)


def _target(home: "Home", url: str | None, key_env: str | None, model: str, *, own_lengths: bool) -> "Target":
    from outpace.lab.load import Target

    key = secret(key_env) if key_env else None
    if key_env and key is None:
        raise InvalidInput("--key-env", f"the environment variable {key_env} is not set")
    if url is None:
        credentials = read_credentials(home)
        url, key = credentials.base_url, key or credentials.api_key
    extra: dict[str, Any] = {"temperature": 0}
    if not own_lengths:
        extra["ignore_eos"] = True
    return Target(address=url, model=model, token=key, extra=extra)


async def _run(target: "Target", asked: "list[Conversation]", users: int, rate: float | None) -> "LoadRun":
    from outpace.lab.load import LoadClient
    from outpace.lab.workload import arriving

    async with LoadClient(target) as client:
        if rate is None:
            return await client.closed(asked, users)
        if rate > 0:
            asked = arriving(asked, "poisson", rate)
        elif any(talk.at_s is None for talk in asked):
            raise InvalidInput("--rate", "0 takes the times of a file, and these requests have none")
        return await client.opened(asked)


def _document(run: "LoadRun", workload: str, users: int, rate: float | None) -> dict[str, Any]:
    import msgspec

    document: dict[str, Any] = {"workload": workload, "users": users if rate is None else None, "rate": rate}
    document["figures"] = msgspec.to_builtins(run.figures)
    # Lengths and times of every request; never what was said.
    samples = msgspec.to_builtins(run.samples)
    document["samples"] = [{name: each[name] for name in each if name != "text"} for each in samples]
    return document


def _say(figures: "LoadFigures") -> None:
    typer.echo(
        f"{figures.requests} requests in {figures.wall_s:.1f} s, {figures.errors} failed · "
        f"{figures.output_tokens_per_s:.1f} output tok/s ({figures.steady_output_tokens_per_s:.1f} without the tail)"
    )
    cached = f", {figures.cached_tokens:,} of them cached" if figures.cached_tokens else ""
    typer.echo(
        f"  prompts {figures.prompt_tokens:,} tokens{cached} · answers {figures.output_tokens:,} tokens"
    )
    if figures.drafted_tokens:
        typer.echo(f"  guessed {figures.drafted_tokens:,} tokens, {figures.accepted_tokens:,} of them right")
    rows = [("TTFT", figures.ttft_ms), ("ITL", figures.itl_ms), ("whole answer", figures.total_ms)]
    rows.append(("longest gap", figures.longest_gap_ms))
    typer.echo()
    table(["ms", "p50>", "p95>", "p99>", "mean>", "worst>"], [_row(*row) for row in rows])
    for words, count in figures.error_texts.items():
        typer.echo(f"\n{count} x {words}")


def _row(name: str, seen: "Quantiles | None") -> tuple[str | None, ...]:
    if seen is None:
        return (name, None, None, None, None, None)
    return (name, *(f"{value:,.1f}" for value in (seen.p50, seen.p95, seen.p99, seen.mean, seen.worst)))
