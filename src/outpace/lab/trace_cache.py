"""Scorers that remember: a reference's answers are the same for every candidate, so they are recorded once."""

import hashlib
import os
from pathlib import Path
from typing import Protocol

import msgspec

from outpace.precision.items import Item
from outpace.precision.traces import Scorer, Step, Trace


class TokenScorer(Scorer, Protocol):
    """A scorer that tells its tokens, so that two engines can be held against each other."""

    @property
    def kv_bytes_per_token(self) -> float | None:
        """Measured from the engine, scales included; None where it does not tell."""
        ...

    async def prompt_tokens(self, item: Item) -> tuple[int, ...]:
        """The item as this engine's template and tokenizer write it."""
        ...


class Recorded(msgspec.Struct):
    """What a reference said so far, by item; the long ones serve for the short too."""

    short: dict[str, Trace] = {}
    long: dict[str, Trace] = {}
    prompts: dict[str, tuple[int, ...]] = {}


class RecordingScorer:
    """Asks `scorer` what it does not know yet."""

    def __init__(self, scorer: TokenScorer, path: Path) -> None:
        self._scorer = scorer
        self._path = path
        self._recorded = _read(path)
        self._num_known = self._size

    @property
    def _size(self) -> int:
        return len(self._recorded.short) + len(self._recorded.long) + len(self._recorded.prompts)

    @property
    def kv_bytes_per_token(self) -> float | None:
        """As the scorer tells."""
        return self._scorer.kv_bytes_per_token

    async def continue_greedily(self, item: Item, *, at_length: bool = False) -> Trace:
        """Recorded, or asked and recorded."""
        kept = self._recorded.long if at_length else self._recorded.short
        known = kept.get(item.id)
        if known is None:
            known = kept[item.id] = await self._scorer.continue_greedily(item, at_length=at_length)
        return known

    async def prompt_tokens(self, item: Item) -> tuple[int, ...]:
        """Recorded, or asked and recorded."""
        known = self._recorded.prompts.get(item.id)
        if known is None:
            known = self._recorded.prompts[item.id] = await self._scorer.prompt_tokens(item)
        return known

    async def follow(self, item: Item, tokens: tuple[int, ...]) -> tuple[Step, ...]:
        """Asked each time."""
        return await self._scorer.follow(item, tokens)

    async def answer(self, item: Item) -> str:
        """The text of a long continuation."""
        return (await self.continue_greedily(item, at_length=True)).text

    def keep(self) -> None:
        """Write what was learned, whole or not at all."""
        if self._size == self._num_known:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(f".{os.getpid()}")
        part.write_bytes(msgspec.msgpack.encode(self._recorded))
        part.replace(self._path)


def recording_path(folder: Path, *parts: str) -> Path:
    """Where the answers of one reference on one set of items are kept; `parts` is everything they depend on."""
    return folder / "traces" / f"{hashlib.sha256('|'.join(parts).encode()).hexdigest()}.msgpack"


def _read(path: Path) -> Recorded:
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=Recorded)
    except (OSError, msgspec.DecodeError):
        return Recorded()
