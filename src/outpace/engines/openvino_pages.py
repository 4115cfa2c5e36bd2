"""Pages of keys and values of a graph of our own: who holds which, and which beginnings are known. Pure."""

import hashlib
from collections import OrderedDict

import msgspec
import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]

_DIGEST_BYTES = 16


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """The pages of one sequence; the first `known_tokens` of its prompt are already in them."""

    pages: tuple[int, ...]
    known_tokens: int


class Pages:
    """Hands out pages. A known beginning of a prompt is shared; one that nobody uses goes when pages are short."""

    def __init__(self, num_pages: int, page_tokens: int) -> None:
        self.num_pages = num_pages
        self._page_tokens = page_tokens
        self._free = list(range(num_pages))
        self._holders = [0] * num_pages
        self._page_of: dict[bytes, int] = {}
        self._beginning_of: dict[int, bytes] = {}
        # Known pages that no sequence holds, the one longest unused first.
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def used_fraction(self) -> float:
        """Share of the pages that sequences hold."""
        return 1.0 - (len(self._free) + len(self._idle)) / self.num_pages if self.num_pages else 0.0

    def take(self, prompt: Tokens, num_tokens: int, tenant: str = "") -> Seat | None:
        """Pages for a sequence of `num_tokens`, its prompt among them; None while there are not enough.

        Only beginnings of the same `tenant` are known to it.
        """
        shared = self._known(prompt, tenant)
        num_fresh = -(-num_tokens // self._page_tokens) - len(shared)
        idle = sum(page in self._idle for page in shared)
        if num_fresh > len(self._free) + len(self._idle) - idle:
            return None
        for page in shared:
            self._idle.pop(page, None)
        pages = (*shared, *(self._fresh() for _ in range(num_fresh)))
        for page in pages:
            self._holders[page] += 1
        return Seat(pages=pages, known_tokens=len(shared) * self._page_tokens)

    def grow(self, seat: Seat, num_tokens: int) -> Seat | None:
        """The seat with pages for a sequence of `num_tokens`; None while there are not enough."""
        num_fresh = -(-num_tokens // self._page_tokens) - len(seat.pages)
        if num_fresh <= 0:
            return seat
        if num_fresh > len(self._free) + len(self._idle):
            return None
        fresh = tuple(self._fresh() for _ in range(num_fresh))
        for page in fresh:
            self._holders[page] += 1
        return Seat(pages=(*seat.pages, *fresh), known_tokens=seat.known_tokens)

    def keep(self, prompt: Tokens, seat: Seat, tenant: str = "") -> None:
        """The prompt has been read into the seat: its full pages are a known beginning from now on."""
        for page, beginning in zip(seat.pages, self._beginnings(prompt, len(prompt), tenant), strict=False):
            if beginning not in self._page_of and page not in self._beginning_of:
                self._page_of[beginning] = page
                self._beginning_of[page] = beginning

    def give_back(self, seat: Seat) -> None:
        """The sequence has ended."""
        # The end of a beginning is of no use without what is before it, so it goes first.
        for page in reversed(seat.pages):
            self._holders[page] -= 1
            if self._holders[page]:
                continue
            if page in self._beginning_of:
                self._idle[page] = None
            else:
                self._free.append(page)

    def _known(self, prompt: Tokens, tenant: str) -> list[int]:
        """The pages of the longest known beginning; the last token of a prompt is always left to run."""
        known = []
        for beginning in self._beginnings(prompt, len(prompt) - 1, tenant):
            page = self._page_of.get(beginning)
            if page is None:
                break
            known.append(page)
        return known

    def _beginnings(self, prompt: Tokens, num_tokens: int, tenant: str) -> list[bytes]:
        """A name for every beginning of whole pages within the first `num_tokens`."""
        names: list[bytes] = []
        before = tenant.encode()
        for end in range(self._page_tokens, num_tokens + 1, self._page_tokens):
            own = prompt[end - self._page_tokens : end].tobytes()
            before = hashlib.blake2b(before + own, digest_size=_DIGEST_BYTES).digest()
            names.append(before)
        return names

    def _fresh(self) -> int:
        if self._free:
            return self._free.pop()
        page, _ = self._idle.popitem(last=False)
        del self._page_of[self._beginning_of.pop(page)]
        return page
