"""Models as data: their architecture, sources, licences and prices; and their weights on disk."""

from outpace.catalogue.cards import Card, Weights, read_cards, shipped_cards
from outpace.catalogue.gguf import GgufFacts
from outpace.catalogue.listing import listing
from outpace.catalogue.resolve import Resolved, find_card, resolve
from outpace.catalogue.store import ArtifactStore, Progress

__all__ = [
    "ArtifactStore",
    "Card",
    "GgufFacts",
    "Progress",
    "Resolved",
    "Weights",
    "find_card",
    "listing",
    "read_cards",
    "resolve",
    "shipped_cards",
]
