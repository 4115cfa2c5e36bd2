"""The prompts that a gate asks: shipped ones, or a file of the user's (one JSON object per line)."""

import hashlib
import random
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from outpace.values.errors import InvalidInput

Kind = Literal["single", "multi", "long", "code", "json", "language"]
_MOST_ITEMS = 5_000
_MOST_BYTES = 64 * 1024 * 1024
# Below this no interval is narrow enough to pass anything.
_FEWEST_ITEMS = 20


class Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Meta(min_length=1, max_length=200_000)]


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One prompt; `schema` asks for JSON, `document` names the long text that several items share."""

    id: Annotated[str, Meta(min_length=1, max_length=80)]
    kind: Kind = "single"
    messages: Annotated[tuple[Turn, ...], Meta(min_length=1, max_length=200)]
    schema: dict[str, Any] | None = None
    document: str | None = None


class ItemSet(msgspec.Struct, frozen=True, kw_only=True):
    """Items in the order in which they are asked, and the hash of the file they come from."""

    name: str
    sha256: str
    items: tuple[Item, ...]


@cache
def shipped_items() -> ItemSet:
    """The set that ships with the project."""
    folder = files("outpace.precision")
    raw = folder.joinpath("items.jsonl").read_bytes()
    documents = msgspec.json.decode(folder.joinpath("documents.json").read_bytes(), type=dict[str, str])
    return parse_items(raw, "shipped", documents)


def read_items(path: Path) -> ItemSet:
    """The user's items. Raises InvalidInput naming file, line and field."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InvalidInput(
                "--items", f"{path.name} is larger than {_MOST_BYTES // 1024**2} MiB; sample it"
            )
        return parse_items(path.read_bytes(), path.name, {})
    except OSError as error:
        raise InvalidInput("--items", f"{str(path)[:200]!r} cannot be read: {error.strerror}") from error


def parse_items(raw: bytes, name: str, documents: dict[str, str]) -> ItemSet:
    """Items out of JSON lines. Raises InvalidInput."""
    items = tuple(
        _with_document(_parse(line, number, name), documents)
        for number, line in enumerate(raw.splitlines(), start=1)
        if line.strip()
    )
    if not _FEWEST_ITEMS <= len(items) <= _MOST_ITEMS:
        raise InvalidInput(
            "--items", f"{name} has {len(items)} items; a gate needs {_FEWEST_ITEMS} to {_MOST_ITEMS:,}"
        )
    if len({item.id for item in items}) != len(items):
        raise InvalidInput("--items", f"{name} has two items with one id")
    digest = hashlib.sha256(raw).hexdigest()
    return ItemSet(name=name, sha256=digest, items=in_order(items, digest))


def in_order(items: tuple[Item, ...], seed: str) -> tuple[Item, ...]:
    """A random order that is fixed before anything is measured: a sequential test must not choose its items.

    Items about a document come between one seventh and one half: reading it takes long, and what is broken
    shall be refused before; what passes early shall have met them.
    """
    rng = random.Random(seed)
    placed = [(rng.uniform(1 / 7, 0.5) if item.document else rng.random(), item.id, item) for item in items]
    return tuple(item for *_, item in sorted(placed, key=lambda entry: entry[:2]))


def _parse(line: bytes, number: int, name: str) -> Item:
    try:
        return msgspec.json.decode(line, type=Item)
    except msgspec.DecodeError as error:
        raise InvalidInput("--items", f"{name} line {number}: {error}") from error


def _with_document(item: Item, documents: dict[str, str]) -> Item:
    """The document stands before the first user message, so that items about it share their beginning."""
    if item.document is None or item.document not in documents:
        return item
    first, *rest = item.messages
    opened = Turn(first.role, f"{documents[item.document]}\n\n{first.content}")
    return msgspec.structs.replace(item, messages=(opened, *rest))
