"""`outpace models`: the catalogue as a table."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from outpace.catalogue.cards import Card, shipped_cards
from outpace.catalogue.listing import listing
from outpace.catalogue.resolve import find_card, not_found
from outpace.catalogue.store import ArtifactStore
from outpace.cli.options import HomeOption, JsonOption, home_at
from outpace.cli.show import as_json, table

_EXAMPLE = "Example: outpace models --json"
_COLUMNS = (
    "model",
    "tasks",
    "parameters>",
    "context>",
    "licence",
    "precision",
    "size>",
    "$/Mtok in>",
    "$/Mtok out>",
    "pulled",
)
# Under a model's facts, for its further precisions.
_BLANK = (" ",) * 5


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("models", epilog=_EXAMPLE)(models)


def models(
    model: Annotated[str | None, typer.Argument(help="Only this one, with its facts and sources.")] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """List the models of the catalogue, what they cost, and which are on this machine."""
    cards = _wanted(model)
    store = ArtifactStore(home_at(home).artifacts)
    listed = [
        listing(card, store) for card in sorted(cards.values(), key=lambda card: (card.parameters, card.id))
    ]
    if json:
        as_json(listed)
        return
    table(_COLUMNS, [row for card in listed for row in _rows(card)])
    if model is not None:
        _show_facts(listed[0])


def _wanted(model: str | None) -> Mapping[str, Card]:
    if model is None:
        return shipped_cards()
    card = find_card(model)
    if card is None:
        raise not_found(model)
    return {card.id: card}


def _rows(card: dict[str, Any]) -> list[list[object]]:
    """A line per precision; the model's own facts stand in the first."""
    price = card["price"] or {}
    own = [
        card["id"],
        "+".join(card["tasks"]),
        _short(card["parameters"]),
        card["context_tokens"],
        card["licence"],
    ]
    prices = [price.get("input_usd_per_mtok"), price.get("output_usd_per_mtok")]
    if not card["artifacts"]:
        return [[*own, None, None, *prices, "needs none"]]
    lines = [[a["precision"], _megabytes(a["size_bytes"]), *prices, a["pulled"]] for a in card["artifacts"]]
    return [[*own, *lines[0]], *([*_BLANK, *line] for line in lines[1:])]


def _short(parameters: int) -> str | None:
    if not parameters:
        return None
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"


def _megabytes(size_bytes: int | None) -> str | None:
    return None if size_bytes is None else f"{size_bytes / 1e6:,.0f} MB"


def _show_facts(card: dict[str, Any]) -> None:
    typer.echo("")
    typer.echo(f"facts    {card['source']}, {card['checked_on']}")
    if card["price"]:
        typer.echo(f"price    {card['price']['source']}, {card['price']['checked_on']}")
    for artifact in card["artifacts"]:
        for source in artifact["sources"]:
            typer.echo(f"{artifact['precision']:<8} {source}")
