"""`outpace pull`: a model's weights onto this machine, verified."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outpace.catalogue.cards import Weights
from outpace.catalogue.resolve import Resolved, find_card, resolve
from outpace.catalogue.store import ArtifactStore, Progress, Record, Watch, watch_nothing
from outpace.cli.options import HomeOption, JsonOption, home_at
from outpace.cli.show import as_json

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

_EXAMPLE = "Example: outpace pull smollm2-135m-instruct"
_PHASES = {
    "downloading": "downloading",
    "waiting": "another process downloads it",
    "verifying": "verifying",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("pull", epilog=_EXAMPLE)(pull)


def pull(
    model: Annotated[str, typer.Argument(help="A name from `outpace models`, or the path of a GGUF file.")],
    precision: Annotated[str, typer.Option(help="Number format of the weights; auto is the first.")] = "auto",
    verify: Annotated[bool, typer.Option("--verify", help="Hash weights that are there in full.")] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Download a model's weights and verify them; does nothing when they are there."""
    layout = home_at(home)
    layout.make()
    store = ArtifactStore(layout.artifacts)
    card = find_card(model)
    weights = card.weights(precision) if card else None
    if card is None or weights is None:
        _say(_nothing_to_pull(resolve(model, precision, store)), json)
        return
    was_present = store.has(weights)
    with watching(card.id) as watch:
        path = store.pull(card.id, weights, watch, verify=verify)
    _say(_pulled(card.id, weights, store.record_of(weights), path) | {"was_present": was_present}, json)


@contextlib.contextmanager
def watching(model: str) -> Iterator[Watch]:
    """A progress bar on the terminal for as long as it takes; silence anywhere else."""
    if not sys.stderr.isatty():
        yield watch_nothing
        return
    with _bars() as bars:
        task = bars.add_task(f"{model}  starting", total=None)

        def watch(progress: Progress) -> None:
            bars.update(
                task,
                description=f"{model}  {_PHASES[progress.phase]}",
                completed=progress.done_bytes,
                total=progress.total_bytes,
            )

        yield watch


def _bars() -> "Bars":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    return Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _nothing_to_pull(resolved: Resolved) -> dict[str, Any]:
    path = resolved.artifact_path
    return {
        "model": resolved.model,
        "precision": resolved.precision,
        "path": str(path) if path else None,
        "size_bytes": path.stat().st_size if path else 0,
        "sha256": None,
        "source": "a file of yours" if path else "none",
        "was_present": True,
    }


def _pulled(model: str, weights: Weights, record: Record, path: Path) -> dict[str, Any]:
    return {
        "model": model,
        "precision": weights.precision,
        "path": str(path),
        "size_bytes": record.size_bytes,
        "sha256": record.sha256,
        "source": next(line.source for line in record.lineage if line.model == model),
    }


def _say(pulled: dict[str, Any], json: bool) -> None:
    if json:
        as_json(pulled)
        return
    model = pulled["model"]
    if pulled["path"] is None:
        typer.echo(f"{model} runs on an engine that needs no weights")
        return
    size = f"{pulled['size_bytes'] / 1e6:,.1f} MB"
    if pulled["sha256"] is None:
        typer.echo(f"{model}  {pulled['precision']}  {size}  sound GGUF, used where it lies")
        return
    state = "was there" if pulled["was_present"] else "pulled"
    typer.echo(f"{model}  {pulled['precision']}  {size}  sha256 {pulled['sha256'][:12]} ok  {state}")
