"""`outpace down`: end the platform of a home and whatever a dead one left."""

import subprocess
from typing import Annotated

import msgspec
import typer

from outpace.cli.options import HomeOption, JsonOption, home_at
from outpace.cli.show import as_json
from outpace.cli.supervise import ray_pool
from outpace.fleet.cluster import LEASE_S
from outpace.fleet.shutdown import Ended, shut_down
from outpace.settings import Settings, settings_from
from outpace.values.errors import EngineFailed
from outpace.values.home import Home

# Beyond the requests' own grace: what the processes need to end one after the other.
_MARGIN_S = 20.0
_SWEEP_S = 60.0

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
    settings = _started_settings(place)
    ended = shut_down(place, settings.grace_s + _MARGIN_S if grace is None else grace)
    if settings.ray is not None and (ended.supervisor_pid is None or ended.was_killed):
        _sweep_cluster(settings)
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


def _started_settings(home: Home) -> Settings:
    try:
        return msgspec.json.decode((home.run / "settings.json").read_bytes(), type=Settings)
    except (OSError, msgspec.DecodeError):
        return settings_from({"home": str(home.root)})


def _sweep_cluster(settings: Settings) -> None:
    """End the replicas on other machines: their pool was killed and could not. Raises EngineFailed."""
    command = ray_pool("sweep", settings)
    try:
        swept = subprocess.run(command, stderr=subprocess.PIPE, timeout=_SWEEP_S, check=False, text=True)
    except subprocess.TimeoutExpired:
        swept = None
    if swept is None or swept.returncode != 0:
        raise EngineFailed(
            f"the cluster at {settings.ray} could not be asked to end this platform's replicas; "
            f"they end by themselves {LEASE_S:.0f} s after it was stopped"
        )


def _sentence(ended: Ended, where: str) -> str:
    leftovers = (
        f"; {ended.num_leftovers} processes that it had left were ended" if ended.num_leftovers else ""
    )
    if ended.supervisor_pid is None:
        return f"nothing was running in {where}{leftovers}"
    how = "did not end in time and was killed" if ended.was_killed else "stopped"
    return f"the platform in {where} {how}{leftovers}"
