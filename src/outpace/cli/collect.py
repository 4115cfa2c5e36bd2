"""`outpace collect`: remove artifacts that were made here and that no deployment uses."""

import typer

from outpace.cli.client import AdminClient
from outpace.cli.options import HomeOption, JsonOption, home_at
from outpace.cli.show import as_json

_EXAMPLE = "Example: outpace collect --json"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("collect", epilog=_EXAMPLE)(collect)


def collect(home: HomeOption = None, json: JsonOption = False) -> None:
    """Remove made weights of models that no deployment serves, and what killed runs left half-made.

    Pulled weights, verdicts and measured speeds stay; what is removed can be made again by `outpace quantize`.
    """
    # Imported late: numpy would slow down every other command.
    from outpace.precision.artifacts import MadeStore

    layout = home_at(home)
    store = MadeStore(layout.artifacts)
    deployments = AdminClient(layout).get("/admin/status")["deployments"]
    served = {deployment["model"] for deployment in deployments}
    made = store.all()
    used = frozenset(key for key, record in made if record.lineage.model in served)
    freed_bytes = store.collect(used)
    kept = len(used)
    if json:
        as_json({"removed": len(made) - kept, "kept": kept, "freed_bytes": freed_bytes})
        return
    typer.echo(f"removed {len(made) - kept} artifacts, {freed_bytes / 1e6:,.1f} MB; {kept} are in use")
