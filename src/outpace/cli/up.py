"""`outpace up`: from nothing to models that answer, in the foreground or detached."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from outpace.catalogue.resolve import name_of_file
from outpace.cli.client import AdminClient
from outpace.cli.credentials import Credentials, write_credentials
from outpace.cli.front import Front, StartFailed, refuse_if_taken, signals_interrupt
from outpace.cli.greet import answer_line, ask, curl_line, own_command
from outpace.cli.machine import machine_line
from outpace.cli.options import HomeOption
from outpace.cli.ready import engine_line, wait_until_ready
from outpace.cli.weights import fetch_weights
from outpace.fleet.ray_knock import require_cluster
from outpace.settings import Settings, home_of, settings_from
from outpace.values.clock import SystemClock
from outpace.values.errors import InvalidInput
from outpace.values.home import Home

DEFAULT_MODEL = "smollm2-135m-instruct"
NO_MODEL = "none"

EXAMPLE = "Example: outpace up --model smollm2-135m-instruct --port 8000 --detach"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLE)(up)


def up(
    host: Annotated[
        str | None, typer.Option(help="Address of the OpenAI door.  [default: 127.0.0.1]")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port of the OpenAI door.  [default: 8000]")] = None,
    admin_port: Annotated[int | None, typer.Option(help="Port of the admin door.  [default: 8001]")] = None,
    home: HomeOption = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=f"Catalogue id or path of a GGUF; may be repeated; `{NO_MODEL}` for none.  [default: {DEFAULT_MODEL}]",
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Gateway processes.  [default: 1]")] = None,
    database: Annotated[
        str | None, typer.Option(help="PostgreSQL URL.  [default: SQLite in the home]")
    ] = None,
    no_profile: Annotated[
        bool,
        typer.Option("--no-profile", help="Measure no deployment by itself; `outpace profile` does."),
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Head of a Ray cluster; replicas run on its machines."),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when it is ready; it runs on.")
    ] = False,
    greet: Annotated[
        bool, typer.Option("--greet", help="Ask the first model one question and show the answer.")
    ] = False,
) -> None:
    """Start the platform; deployments made earlier come back.

    Ends with a line that starts `ready http`. Ctrl-C ends it after the running requests.
    """
    settings = settings_from(
        {
            "home": str(home) if home else None,
            "host": host,
            "port": port,
            "admin_port": admin_port,
            "workers": workers,
            "database": database,
            "profile": "off" if no_profile else None,
            "ray": ray,
        }
    )
    models = wanted_models(model)
    place = home_of(settings)
    place.make()
    typer.echo(f"  {machine_line()}")
    refuse_if_taken(settings)
    if settings.ray is not None:
        require_cluster(settings.ray, is_open=settings.ray_auth == "none")
    for name in models.values():
        fetch_weights(place, name)
    _run(settings, place, models, is_detached=detach, is_greeting=greet)


def wanted_models(given: list[str] | None) -> dict[str, str]:
    """Deployment name → catalogue id or absolute path, in the order given. Raises InvalidInput."""
    words = given or [DEFAULT_MODEL]
    if NO_MODEL in words:
        if len(words) > 1:
            raise InvalidInput("--model", f"`{NO_MODEL}` and names contradict each other")
        return {}
    models: dict[str, str] = {}
    for word in words:
        is_file = word.lower().endswith(".gguf")
        name = name_of_file(Path(word)) if is_file else word
        model = str(Path(word).expanduser().absolute()) if is_file else word
        if models.setdefault(name, model) != model:
            raise InvalidInput("--model", f"two files would both be called {name!r}; rename one")
    return models


def _run(
    settings: Settings, home: Home, models: dict[str, str], *, is_detached: bool, is_greeting: bool
) -> None:
    credentials = write_credentials(home, settings)
    settings_path = _write_settings(settings, home)
    with signals_interrupt():
        front = Front(settings, settings_path, is_detached)
        try:
            _bring_up(front, home, credentials, models, is_greeting=is_greeting)
            if is_detached:
                return
            code = front.stay()
        except KeyboardInterrupt:
            typer.echo("stopping: running requests end first; once more stops at once", err=True)
            front.stop()
            return
        except BaseException:
            front.stop()
            raise
    front.stop()
    if code != 0:
        raise StartFailed(f"the platform ended by itself: {front.why_it_ended()}")
    typer.echo("stopped")


def _bring_up(
    front: Front, home: Home, credentials: Credentials, models: dict[str, str], *, is_greeting: bool
) -> None:
    front.wait_for_doors()
    client = AdminClient(home)
    clock = SystemClock()
    deployments = client.get("/admin/status")["deployments"]
    present = {entry["name"] for entry in deployments if entry["state"] != "stopped"}
    for name, model in models.items():
        if name not in present:
            client.post("/admin/deployments", {"name": name, "model": model})
    for name in models:
        deployment = wait_until_ready(client, home, name, clock, require_life=front.require_life)
        typer.echo(f"  {engine_line(deployment)}")
    for name in sorted(present - set(models)):
        typer.echo(f"  {name}   comes back; `{own_command(home, 'status')}` shows when it is ready")
    first = next(iter(models), None)
    if is_greeting and first is not None:
        typer.echo(answer_line(ask(credentials, first, clock)))
    _tell_ready(home, credentials, first)


def _tell_ready(home: Home, credentials: Credentials, model: str | None) -> None:
    typer.echo(
        f"ready {credentials.base_url}      admin {credentials.admin_url}      key in {home.credentials}"
    )
    if model is not None:
        typer.echo(f"  try:  {curl_line(credentials, model, home)}")
    typer.echo(f"  next: {own_command(home, 'status')} · outpace deploy --help · outpace keys create --help")


def _write_settings(settings: Settings, home: Home) -> Path:
    path = home.run / "settings.json"
    # The database's URL may hold a password.
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_bytes(msgspec.json.encode(settings))
    return path
