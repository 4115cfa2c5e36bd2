"""Quotas shared by all workers of a machine: money per key, and requests and tokens per minute.

What a key has spent is `base + Σ settled + Σ reserved`: `base` is the ledger's sum of retired journals, and
each life of a worker owns one column of `settled` and `reserved` that only it writes. Every change is ordered
so that a kill between two stores counts too much, never too little; retiring the column puts it right.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from outpace.metering import rates
from outpace.metering.boot import check_boot_id
from outpace.metering.countersfile import (
    BASE,
    COLUMNS_USED,
    FIRST_COLUMN,
    LOADED,
    NUM_COLUMNS,
    NUM_SLOTS,
    OWNER_BYTES,
    OWNER_WORDS,
    OWNERS,
    REQUESTS_BUCKET,
    SLOTS_USED,
    TOKENS_BUCKET,
    WORD_BYTES,
    column_word,
    open_file,
    row_word,
)
from outpace.metering.rowlock import RowLocks
from outpace.values.errors import Conflict, Overloaded

_HEADER_ROW = NUM_SLOTS
# A word holds less than 2^63; sums above half of that are refused like a spent budget.
LARGEST_PUSD = 2**62
_LARGEST_WORD = 2**63 - 1
_NS_PER_S = 10**9


class CountersNotLoaded(Overloaded):
    """Control has not yet told what was spent before; budgets cannot be checked."""


class Counters:
    """The counters of one installation, as every process of it sees them."""

    def __init__(self, path: Path) -> None:
        self._file = open_file(path)
        self.words = self._file.words
        self.locks = RowLocks(self._file.fd)

    @classmethod
    def open(cls, path: Path) -> "Counters":
        """Open or make the file at `path`. Raises Conflict when another version of Outpace uses it."""
        return cls(path)

    def close(self) -> None:
        """Let go of the file; the numbers stay."""
        self._file.close()

    @property
    def is_loaded(self) -> bool:
        """Whether control has set what was spent before; until then budgets are refused, never guessed."""
        return self.words[LOADED] == 1

    def claim_column(self, boot_id: str) -> "Column":
        """A column for this life of a worker. Raises Conflict when it has one, Overloaded when none is free."""
        check_boot_id(boot_id)
        with self._locked(_HEADER_ROW):
            owners = [self._owner(column) for column in range(NUM_COLUMNS)]
            if boot_id in owners:
                raise Conflict(f"{boot_id} has its column already; a life of a worker has one")
            if None not in owners:
                raise Overloaded(
                    f"All {NUM_COLUMNS} columns of the counters belong to workers that are alive or not yet "
                    "recovered; control frees them when it runs."
                )
            column = owners.index(None)
            self._set_owner(column, boot_id)
            self.words[COLUMNS_USED] = max(self.words[COLUMNS_USED], column + 1)
        return Column(self, column)

    def owners(self) -> list[str]:
        """Boot ids of all claimed columns."""
        owners = (self._owner(column) for column in range(self.words[COLUMNS_USED]))
        return [owner for owner in owners if owner is not None]

    def spent(self, slot: int) -> int:
        """Settled pico-dollars of a key, over all time."""
        columns = self._columns(slot)
        return self.words[row_word(slot) + BASE] + sum(columns[::2])

    def reserved(self, slot: int) -> int:
        """Pico-dollars of a key that running requests may still cost."""
        return sum(self._columns(slot)[1::2])

    def load_bases(self, bases_pusd: Mapping[int, int]) -> None:
        """Set what the ledger knows of retired journals, by slot, and open the door for budgets."""
        for slot, base_pusd in bases_pusd.items():
            self.note_slot(slot)
            self.words[row_word(slot) + BASE] = base_pusd
        self.words[LOADED] = 1

    def retire_column(self, boot_id: str, bases_pusd: Mapping[int, int]) -> None:
        """Replace a dead worker's column by the ledger's sums; bases are absolute, so again is harmless."""
        column = self._column_of(boot_id)
        for slot in bases_pusd:
            self.note_slot(slot)
        for slot in range(self.words[SLOTS_USED]):
            base_pusd = bases_pusd.get(slot)
            if base_pusd is not None or self._is_in_use(slot, column):
                self._replace(slot, column, base_pusd)
        if column is not None:
            with self._locked(_HEADER_ROW):
                self.words[OWNERS + column * OWNER_WORDS] = 0

    def _is_in_use(self, slot: int, column: int | None) -> bool:
        if column is None:
            return False
        at = column_word(slot, column)
        return self.words[at] != 0 or self.words[at + 1] != 0

    def _replace(self, slot: int, column: int | None, base_pusd: int | None) -> None:
        with self._locked(slot):
            # The base first: a kill in between counts twice until the next try, never too little.
            if base_pusd is not None:
                self.words[row_word(slot) + BASE] = base_pusd
            if column is not None:
                at = column_word(slot, column)
                self.words[at] = 0
                self.words[at + 1] = 0

    def note_slot(self, slot: int) -> None:
        """Remember that `slot` is in use; rows above the highest one are never looked at."""
        if 0 <= slot < self.words[SLOTS_USED]:
            return
        if not 0 <= slot < NUM_SLOTS:
            raise IndexError(f"slot {slot} is outside 0..{NUM_SLOTS - 1}")
        with self._locked(_HEADER_ROW):
            self.words[SLOTS_USED] = max(self.words[SLOTS_USED], slot + 1)

    def _columns(self, slot: int) -> list[int]:
        first = row_word(slot) + FIRST_COLUMN
        return self.words[first : first + 2 * self.words[COLUMNS_USED]].tolist()

    def _column_of(self, boot_id: str) -> int | None:
        owners = [self._owner(column) for column in range(NUM_COLUMNS)]
        return owners.index(boot_id) if boot_id in owners else None

    def _owner(self, column: int) -> str | None:
        at = OWNERS + column * OWNER_WORDS
        if not self.words[at]:
            return None
        start = (at + 1) * WORD_BYTES
        return bytes(self._file.bytes[start : start + OWNER_BYTES]).rstrip(b"\0").decode()

    def _set_owner(self, column: int, boot_id: str) -> None:
        at = OWNERS + column * OWNER_WORDS
        start = (at + 1) * WORD_BYTES
        self._file.bytes[start : start + OWNER_BYTES] = boot_id.encode().ljust(OWNER_BYTES, b"\0")
        # After the name: a kill in between leaves the column free.
        self.words[at] = 1

    @contextmanager
    def _locked(self, row: int) -> Iterator[None]:
        self.locks.acquire(row)
        try:
            yield
        finally:
            self.locks.release(row)


class Column:
    """What one life of a worker may change: its own sums, and the buckets shared by all."""

    def __init__(self, counters: Counters, column: int) -> None:
        self._counters = counters
        self._words = counters.words
        self._locks = counters.locks
        self._column = column

    def reserve(self, slot: int, amount_pusd: int, budget_pusd: int | None) -> bool:
        """Hold `amount_pusd` if the budget has room for it, atomically among all workers.

        Raises CountersNotLoaded while what was spent before is not known; None is no budget.
        """
        return self._hold(slot, amount_pusd, amount_pusd, budget_pusd) is not None

    def reserve_up_to(self, slot: int, least_pusd: int, most_pusd: int, budget_pusd: int | None) -> int:
        """Hold as much as fits, at most `most_pusd`; what was held, or 0 when `least_pusd` does not fit."""
        return self._hold(slot, least_pusd, most_pusd, budget_pusd) or 0

    def _hold(self, slot: int, least_pusd: int, most_pusd: int, budget_pusd: int | None) -> int | None:
        if not 0 <= least_pusd <= most_pusd:
            raise ValueError(f"cannot reserve between {least_pusd} and {most_pusd} pUSD")
        if budget_pusd is not None and not self._counters.is_loaded:
            raise CountersNotLoaded("What was spent before is not known yet; try again.", retry_after_s=1.0)
        self._counters.note_slot(slot)
        ceiling_pusd = LARGEST_PUSD if budget_pusd is None else min(budget_pusd, LARGEST_PUSD)
        words = self._words
        self._locks.acquire(slot)
        try:
            base = row_word(slot) + BASE
            left_pusd = ceiling_pusd - sum(words[base : base + 1 + 2 * words[COLUMNS_USED]])
            held_pusd = min(most_pusd, left_pusd)
            if held_pusd < least_pusd:
                return None
            words[column_word(slot, self._column) + 1] += held_pusd
            return held_pusd
        finally:
            self._locks.release(slot)

    def settle(self, slot: int, reserved_pusd: int, cost_pusd: int) -> None:
        """Turn a reservation into its cost (0 releases it). Raises ValueError for what was never reserved."""
        self._counters.note_slot(slot)
        at = column_word(slot, self._column)
        is_locked = self._try_lock(slot)
        try:
            if cost_pusd < 0 or not 0 <= reserved_pusd <= self._words[at + 1]:
                raise ValueError(f"cannot settle {reserved_pusd} pUSD at {cost_pusd}: never reserved")
            # The cost first: a kill in between counts both, never neither.
            self._words[at] = min(self._words[at] + cost_pusd, _LARGEST_WORD)
            self._words[at + 1] -= reserved_pusd
        finally:
            if is_locked:
                self._locks.release(slot)

    def _try_lock(self, slot: int) -> bool:
        # Only this worker writes these words; the lock orders them for others, and must not stop a settlement.
        try:
            self._locks.acquire(slot)
        except Overloaded:
            return False
        return True

    def take(self, slot: int, rpm: int | None, tpm: int | None, tokens: int, now_s: float) -> rates.RateState:
        """Take one request and `tokens` from the key's minute, both or neither; `now_s` is monotonic.

        The limits may differ from one call to the next. Raises IndexError for a slot that cannot exist.
        """
        if rpm is None and tpm is None:
            return rates.UNLIMITED
        self._counters.note_slot(slot)
        row = row_word(slot)
        now_ns = int(now_s * _NS_PER_S)
        self._locks.acquire(slot)
        try:
            words = self._words
            decision = rates.decide(
                words[row + REQUESTS_BUCKET], words[row + TOKENS_BUCKET], rpm, tpm, tokens, now_ns
            )
            words[row + REQUESTS_BUCKET] = decision.requests_full_at_ns
            words[row + TOKENS_BUCKET] = decision.tokens_full_at_ns
            return decision.state
        finally:
            self._locks.release(slot)

    def give_back_tokens(self, slot: int, tokens: int, tpm: int | None) -> None:
        """Return tokens that were taken at limit `tpm` and not used."""
        if tpm is None or tpm <= 0 or tokens <= 0:
            return
        at = row_word(slot) + TOKENS_BUCKET
        self._locks.acquire(slot)
        try:
            self._words[at] = max(self._words[at] - rates.cost_ns(tokens, tpm), 0)
        finally:
            self._locks.release(slot)

    def spent(self, slot: int) -> int:
        """Settled pico-dollars of a key, by all workers, over all time."""
        return self._counters.spent(slot)

    def reserved(self, slot: int) -> int:
        """Pico-dollars of a key held by all workers."""
        return self._counters.reserved(slot)
