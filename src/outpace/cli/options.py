"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from outpace.settings import default_home
from outpace.values.home import Home

HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home", help="Folder of the installation; else OUTPACE_HOME, else the user's data folder."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
NoWaitOption = Annotated[bool, typer.Option("--no-wait", help="Return at once, not when it is done.")]


def home_at(home: Path | None) -> Home:
    """The layout of the wanted folder."""
    return Home(home or default_home())
