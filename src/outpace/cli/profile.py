"""`outpace profile`: measure what a deployment does on this machine, or show what was measured."""

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outpace.cli.client import AdminClient
from outpace.cli.options import HomeOption, JsonOption, home_at
from outpace.cli.show import as_json, moment, table
from outpace.values.errors import InvalidInput, ModelNotFound

if TYPE_CHECKING:
    from outpace.lab.profiling import Say
    from outpace.values.home import Home

_EXAMPLE = "Example: outpace profile smollm2-135m-instruct"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=_EXAMPLE)(profile)


def profile(
    deployment: Annotated[str, typer.Argument(help="Name of a deployment.")],
    show: Annotated[
        bool, typer.Option("--show", help="Show what was measured before; measure nothing.")
    ] = False,
    engine: Annotated[
        str | None, typer.Option(help="Of a deployment with two variants, the one on this engine.")
    ] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Measure prefill, decode speed by load, and what speculation gains, on a replica of its own.

    Takes about 30 seconds of the machine; requests meanwhile are slower. By itself a deployment is measured once,
    while nobody asks it (setting `profile`); where 30 seconds do not suffice, the platform goes on later.
    """
    place = home_at(home)
    found = _deployment(AdminClient(place), deployment)
    document = _kept(found, engine) if show else _measure(place, found, engine)
    if json:
        as_json(document)
    elif document is None:
        raise InvalidInput("deployment", f"{deployment} has nothing that a profile could measure here")
    else:
        show_profile(document)


def _deployment(client: AdminClient, name: str) -> dict[str, Any]:
    for deployment in client.get("/admin/status")["deployments"]:
        if deployment["name"] == name and deployment["spec"] is not None:
            return dict(deployment)
    raise ModelNotFound(f"There is no deployment {name[:100]!r}; `outpace status` lists them.")


def _kept(found: dict[str, Any], engine: str | None) -> dict[str, Any] | None:
    if engine is None:
        return found.get("profile")
    variants = {variant["engine"]: variant for variant in found["variants"]}
    if engine not in variants:
        raise InvalidInput(
            "engine", f"{found['name']} has no variant on {engine[:40]!r}; it has {', '.join(variants)}"
        )
    profile: dict[str, Any] | None = variants[engine]["profile"]
    return profile


def _measure(home: "Home", found: dict[str, Any], engine: str | None) -> dict[str, Any]:
    # Imported late: they would slow down every other command.
    import msgspec

    from outpace.cli.spec import spec_of
    from outpace.compose import Models
    from outpace.lab.profile_one import profile_one
    from outpace.scheduling.profiles import best_concurrency, is_disturbed

    variant = Models(home).variant(spec_of(found["spec"]), engine)
    with following(found["name"]) as say:
        made = asyncio.run(profile_one(home.profiles, variant, say))
    document: dict[str, Any] = msgspec.to_builtins(made)
    derived = {"best_concurrency": best_concurrency(made.points), "is_disturbed": is_disturbed(made)}
    return {**document, **derived}


@contextlib.contextmanager
def following(title: str) -> Iterator["Say"]:
    """A bar with what is measured now, on a terminal; silence anywhere else."""
    if not sys.stderr.isatty():
        yield lambda what, share: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=1.0)
        yield lambda what, share: bars.update(task, completed=min(share, 1.0), description=f"{title}  {what}")


def show_profile(document: dict[str, Any]) -> None:
    """Print a profile for people, or why there is none."""
    if "points" not in document:
        typer.echo(f"no profile: {document['reason']}")
        return
    conditions = document["conditions"]
    refined = f", refined by {document['refined_by']} live answers" if document["refined_by"] else ""
    typer.echo(
        f"{conditions['model']} on {conditions['engine_version']}, "
        f"{moment(document['measured_at'])}, {document['took_s']:.0f} s{refined}"
    )
    typer.echo(f"  {conditions['machine']}")
    typer.echo(
        f"  loads in {document['load_s']:.1f} s · prefill {document['prefill_tokens_per_s']:,.0f} tok/s · "
        f"best at {document['best_concurrency']} at once"
    )
    if document["is_disturbed"]:
        typer.echo(
            f"  other programs took {document['others_share']:.0%} of the processors then: figures may be too low; "
            "run `outpace profile` again on a quiet machine"
        )
    typer.echo()
    table(["users>", "tok/s>", "TTFT ms>", "ITL ms>"], map(_point_row, document["points"]))
    if document["speculation"]:
        typer.echo()
        columns = ["speculation", "workload", "users>", "gain>", "guesses>", "right>"]
        table(columns, map(_speculation_row, document["speculation"]))


def _point_row(point: dict[str, Any]) -> tuple[object, ...]:
    return (
        point["users"],
        f"{point['output_tokens_per_s']:.1f}",
        None if point["ttft_ms"] is None else f"{point['ttft_ms']:.0f}",
        None if point["itl_ms"] is None else f"{point['itl_ms']:.1f}",
    )


def _speculation_row(point: dict[str, Any]) -> tuple[object, ...]:
    drafted = point["drafted_tokens"]
    right = f"{point['accepted_tokens'] / drafted:.0%}" if drafted else None
    return point["method"], point["workload"], point["users"], f"{point['gain']:.2f}x", drafted, right
