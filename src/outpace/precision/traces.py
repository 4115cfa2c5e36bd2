"""What a model said and how sure it was: the raw material of a gate, and the protocol of who provides it."""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from outpace.precision.items import Item


class Step(msgspec.Struct, frozen=True, array_like=True):
    """One position: the token that stands there, and the most likely ones with their log-probabilities (nats)."""

    token: int
    top: Mapping[int, float]

    @property
    def favourite(self) -> int:
        """The most likely token."""
        return max(self.top, key=self.top.__getitem__)


class Trace(msgspec.Struct, frozen=True):
    """A continuation of an item: its text, and its positions as far as they were looked at."""

    item_id: str
    text: str
    steps: tuple[Step, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens of the positions."""
        return tuple(step.token for step in self.steps)


class Scorer(Protocol):
    """A running artifact that can be asked what it would say and how likely something else is.

    `precision` knows no engine: whoever joins the two (lab) gives it an object like this.
    """

    async def continue_greedily(self, item: Item, *, at_length: bool = False) -> Trace:
        """The model's own most likely continuation of the item, under its schema if it has one.

        The first positions come with their probabilities; `at_length` continues the text far beyond them.
        """
        ...

    async def follow(self, item: Item, tokens: tuple[int, ...]) -> tuple[Step, ...]:
        """How likely this model finds each of `tokens` after the item, one after the other."""
        ...

    async def answer(self, item: Item) -> str:
        """The model's own greedy answer, longer than a continuation, under the item's schema if it has one."""
        ...
