"""`outpace down`: end the platform of a home and whatever a dead one left."""

from typing import Annotated

import msgspec
import typer

from outpace.cli.options import HomeOption, JsonOption, home_at
from outpace.cli.show import as_json
from outpace.fleet.shutdown import Ended, shut_down
from outpace.settings import Settings, settings_from
from outpace.values.home import Home

# Beyond the requests' own grace: what the processes need to end one after the other.
_MARGIN_S = 20.0

EXAMPLE = "Example: outpace down"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLE)(down)


def down(
    home: HomeOption = None,
    grace: Annotated[
        float | None, typer.Option(min=0, help="Seconds that running requests get.  [default: as started]")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Stop the platform; running requests end first. Leaves no process behind.

    Works as well when the platform was killed. Fine when nothing runs.
    """
    place = home_at(home)
    ended = shut_down(place, _started_grace_s(place) + _MARGIN_S if grace is None else grace)
    if json:
        as_json(
            {
                "was_running": ended.supervisor_pid is not None,
                "was_killed": ended.was_killed,
                "leftovers": ended.num_leftovers,
            }
        )
        return
    typer.echo(_sentence(ended, str(place.root)))


def _started_grace_s(home: Home) -> float:
    try:
        return msgspec.json.decode((home.run / "settings.json").read_bytes(), type=Settings).grace_s
    except (OSError, msgspec.DecodeError):
        return settings_from({"home": str(home.root)}).grace_s


def _sentence(ended: Ended, where: str) -> str:
    leftovers = (
        f"; {ended.num_leftovers} processes that it had left were ended" if ended.num_leftovers else ""
    )
    if ended.supervisor_pid is None:
        return f"nothing was running in {where}{leftovers}"
    how = "did not end in time and was killed" if ended.was_killed else "stopped"
    return f"the platform in {where} {how}{leftovers}"
