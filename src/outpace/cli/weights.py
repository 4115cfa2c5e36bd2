"""Weights of the models that are about to be served: there, or fetched with a bar."""

import typer

from outpace.catalogue import find_card
from outpace.catalogue.resolve import resolve
from outpace.catalogue.store import ArtifactStore
from outpace.cli.pull import watching
from outpace.precision.recipes import source_precision
from outpace.values.home import Home


def fetch_weights(home: Home, model: str, precision: str = "auto", *, is_quiet: bool = False) -> None:
    """Pull what `model` needs. Raises ModelNotFound, WeightsInvalid, SourceUnreachable, StorageFailed."""
    store = ArtifactStore(home.artifacts)
    card = find_card(model)
    shipped = [weights.precision for weights in card.artifacts] if card else []
    resolved = resolve(model, source_precision(precision, shipped), store)
    if resolved.to_pull is None:
        return
    size = f"{resolved.to_pull.size_bytes / 1e6:,.0f} MB" if resolved.to_pull.size_bytes else "size not known"
    if not is_quiet:
        typer.echo(f"  {resolved.model}   fetching the weights, {size}")
    with watching(resolved.model) as watch:
        store.pull(resolved.model, resolved.to_pull, watch)
    if not is_quiet:
        typer.echo(f"  {resolved.model}   {resolved.to_pull.precision} · {size} · sha256 ok")
