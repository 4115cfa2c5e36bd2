"""`outpace scale`: more or fewer replicas of a deployment."""

from typing import Annotated

import typer

from outpace.cli.client import AdminClient, path_of
from outpace.cli.options import HomeOption, JsonOption, NoWaitOption, home_at
from outpace.cli.ready import engine_line, wait_until_ready
from outpace.cli.show import as_json, waiting
from outpace.values.clock import SystemClock

EXAMPLE = "Example: outpace scale smollm2-135m-instruct 2   (or auto)"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLE)(scale)


def scale(
    name: Annotated[str, typer.Argument(help="Name of the deployment.")],
    replicas: Annotated[
        str, typer.Argument(help="Replicas to keep, `auto` for as many as the load needs, 0 to let it sleep.")
    ],
    home: HomeOption = None,
    json: JsonOption = False,
    no_wait: NoWaitOption = False,
) -> None:
    """Keep this many replicas until told otherwise; those that go end their running requests first."""
    count = _count(replicas)
    place = home_at(home)
    client = AdminClient(place)
    deployment = client.patch(path_of("deployments", name), {"replicas": count})
    if not no_wait:
        with waiting(f"{name}: {replicas} replicas") as on_change:
            deployment = wait_until_ready(client, place, name, SystemClock(), on_change=on_change)
    if json:
        as_json(deployment)
    elif no_wait:
        typer.echo(f"{name}   {replicas} replicas wanted")
    else:
        typer.echo(engine_line(deployment))


def _count(word: str) -> int | str:
    if word == "auto":
        return word
    if not word.isdecimal() or not word.isascii():
        raise typer.BadParameter("a whole number, or auto", param_hint="replicas")
    return int(word)
