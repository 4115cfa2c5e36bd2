"""`outpace stop`: stop serving a deployment."""

from typing import Annotated

import typer

from outpace.cli.client import AdminClient, path_of
from outpace.cli.options import HomeOption, JsonOption, home_at
from outpace.cli.show import as_json

EXAMPLE = "Example: outpace stop smollm2-135m-instruct"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLE)(stop)


def stop(
    name: Annotated[str, typer.Argument(help="Name of the deployment.")],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Stop a deployment; its running requests end first. Its weights and receipts stay."""
    answer = AdminClient(home_at(home)).delete(path_of("deployments", name))
    if json:
        as_json(answer)
    else:
        typer.echo(f"{answer['name']} {answer['state']}")
