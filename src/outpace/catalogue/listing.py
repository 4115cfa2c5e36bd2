"""A card as the CLI's and the admin API's JSON shows it."""

from typing import Any

from outpace.catalogue.cards import Card, Weights
from outpace.catalogue.sources import describe
from outpace.catalogue.store import ArtifactStore
from outpace.values.money import TOKENS_PER_MTOK, format_usd


def listing(card: Card, store: ArtifactStore) -> dict[str, Any]:
    """Everything a user may want to know of a model, and whether its weights are on this machine.

    `size_bytes`, `sources` and `precision` are those of the weights that `auto` picks.
    """
    artifacts = [_artifact(weights, store) for weights in card.artifacts]
    first = artifacts[0] if artifacts else {"precision": None, "size_bytes": None, "sources": []}
    return {
        "id": card.id,
        "family": card.family,
        "publisher": card.publisher,
        "tasks": list(card.tasks),
        "parameters": card.parameters,
        "context_tokens": card.context_tokens,
        "licence": card.licence,
        "engine": card.engine,
        "precision": first["precision"],
        "size_bytes": first["size_bytes"],
        "sources": first["sources"],
        "price": _price(card),
        "artifacts": artifacts,
        "pulled": not artifacts or any(artifact["pulled"] for artifact in artifacts),
        "source": card.source,
        "checked_on": card.checked_on,
    }


def _artifact(weights: Weights, store: ArtifactStore) -> dict[str, Any]:
    return {
        "precision": weights.precision,
        "size_bytes": weights.size_bytes,
        "sha256": weights.sha256,
        "sources": [describe(source) for source in weights.sources],
        "pulled": store.has(weights),
    }


def _price(card: Card) -> dict[str, str] | None:
    if card.list_price is None:
        return None
    price = card.list_price.price
    return {
        "input_usd_per_mtok": format_usd(price.input_pusd * TOKENS_PER_MTOK),
        "output_usd_per_mtok": format_usd(price.output_pusd * TOKENS_PER_MTOK),
        "cached_input_usd_per_mtok": format_usd(price.cached_input_pusd * TOKENS_PER_MTOK),
        "usd_per_request": format_usd(price.request_pusd),
        "source": card.list_price.source,
        "checked_on": card.list_price.checked_on,
    }
