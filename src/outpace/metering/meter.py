"""The meter of one worker: counters and journal in the only order that survives a kill at any point.

Opening: counters, then journal. Closing: journal, then counters. A kill in between leaves too much held in
the counters, which recovery clears; the other order would lose a settlement or let a key overspend.
"""

from collections.abc import Collection

from outpace.metering.counters import Column
from outpace.metering.journal import JournalWriter
from outpace.metering.rates import RateState
from outpace.values.clock import Clock
from outpace.values.errors import BudgetSpent
from outpace.values.records import LoadSeen, Progressed, Refused, Reserved, Settled


class Meter:
    """What the gateway calls around every request."""

    def __init__(self, journal: JournalWriter, column: Column, clock: Clock) -> None:
        self._journal = journal
        self._column = column
        self._clock = clock
        self._open: dict[str, Reserved] = {}

    @property
    def open_requests(self) -> Collection[Reserved]:
        """Reservations that are not closed yet."""
        return self._open.values()

    def take(self, slot: int, rpm: int | None, tpm: int | None, tokens: int) -> RateState:
        """Take one request and `tokens` from the key's minute."""
        return self._column.take(slot, rpm, tpm, tokens, self._clock.monotonic_s())

    def give_back_tokens(self, slot: int, tokens: int, tpm: int | None) -> None:
        """Return tokens that were taken and not used."""
        self._column.give_back_tokens(slot, tokens, tpm)

    def hold(self, slot: int, least_pusd: int, most_pusd: int, budget_pusd: int | None) -> int:
        """Hold between `least_pusd` and `most_pusd` of the key's budget; `open` or `release` must follow.

        Raises BudgetSpent when the least does not fit, CountersNotLoaded while spending is not known.
        """
        if most_pusd == least_pusd:
            if self._column.reserve(slot, most_pusd, budget_pusd):
                return most_pusd
            raise _spent()
        held_pusd = self._column.reserve_up_to(slot, least_pusd, most_pusd, budget_pusd)
        if held_pusd < max(least_pusd, 1):
            raise _spent()
        return held_pusd

    def release(self, slot: int, held_pusd: int) -> None:
        """Let go of what was held for a request that was never opened."""
        if held_pusd:
            self._column.settle(slot, held_pusd, 0)

    def open(self, reserved: Reserved) -> None:
        """Record a held reservation before the engine is called.

        Raises JournalUnwritable after letting go of what was held: the request must then not run.
        """
        try:
            self._journal.write(reserved)
        except BaseException:
            self.release(reserved.slot, reserved.reserved_pusd)
            raise
        self._open[reserved.request_id] = reserved

    def mark(self, progressed: Progressed) -> None:
        """Record what would be charged if everything died now."""
        self._journal.write(progressed)

    def close(self, settled: Settled) -> bool:
        """Record the end of an opened request and settle it; False when it was closed before."""
        reserved = self._open.get(settled.request_id)
        if reserved is None:
            return False
        self._journal.write(settled)
        del self._open[settled.request_id]
        if reserved.reserved_pusd or settled.cost_pusd:
            self._column.settle(reserved.slot, reserved.reserved_pusd, settled.cost_pusd or 0)
        return True

    def note_load(self, seen: LoadSeen) -> None:
        """Write down what this worker has in flight."""
        self._journal.write(seen)

    def refuse(self, refused: Refused) -> None:
        """Count requests that were turned away before any reservation."""
        self._journal.write(refused)


def _spent() -> BudgetSpent:
    return BudgetSpent(
        "This key's budget is spent, or held by requests that run now. Raise its budget or use another key."
    )
