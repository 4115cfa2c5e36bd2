"""Orders of waiting: fair between keys and priorities, or first come first served. Pure: no clock, no tasks."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Protocol

from outpace.scheduling.shares import Shares
from outpace.scheduling.tickets import Ticket
from outpace.values.errors import InvalidInput

# Tokens that interactive requests get for one of batch requests, while both have work.
PRIORITY_WEIGHTS: dict[str, float] = {"interactive": 9.0, "batch": 1.0}

May = Callable[[Ticket], bool]


class WaitingLine(Protocol):
    """Who waits, and who is next."""

    def add(self, ticket: Ticket) -> None: ...

    def remove(self, ticket: Ticket) -> None: ...

    def next(self, may: May) -> Ticket | None:
        """Take out the next one that may go now; None when none may."""
        ...

    def passed(self, ticket: Ticket) -> None:
        """A request went without waiting."""
        ...

    def correct(self, ticket: Ticket, tokens: int) -> None:
        """A request took this many tokens more (or fewer) than its ticket said."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Ticket]: ...


class FirstComeLine:
    """One after the other, whoever asks; for comparison."""

    def __init__(self) -> None:
        self._tickets: OrderedDict[Ticket, None] = OrderedDict()

    def add(self, ticket: Ticket) -> None:
        self._tickets[ticket] = None

    def remove(self, ticket: Ticket) -> None:
        self._tickets.pop(ticket, None)

    def next(self, may: May) -> Ticket | None:
        first = next(iter(self._tickets), None)
        if first is None or not may(first):
            return None
        del self._tickets[first]
        return first

    def passed(self, ticket: Ticket) -> None: ...

    def correct(self, ticket: Ticket, tokens: int) -> None: ...

    def __len__(self) -> int:
        return len(self._tickets)

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self._tickets)


class FairLine:
    """Shares first between priorities, then between the keys of one; a key's own requests go in order.

    A priority or key whose next request may not go now does not keep the others from going.
    """

    def __init__(self) -> None:
        self._priorities = Shares(PRIORITY_WEIGHTS)
        self._keys = {name: Shares() for name in PRIORITY_WEIGHTS}
        self._waiting: dict[str, dict[str, OrderedDict[Ticket, None]]] = {
            name: {} for name in PRIORITY_WEIGHTS
        }
        self._count = 0

    def add(self, ticket: Ticket) -> None:
        by_key = self._waiting[ticket.priority]
        if not by_key:
            self._priorities.wake(ticket.priority)
        tickets = by_key.get(ticket.key)
        if tickets is None:
            tickets = by_key[ticket.key] = OrderedDict()
            self._keys[ticket.priority].wake(ticket.key)
        tickets[ticket] = None
        self._count += 1

    def remove(self, ticket: Ticket) -> None:
        by_key = self._waiting[ticket.priority]
        tickets = by_key.get(ticket.key)
        if tickets is None or ticket not in tickets:
            return
        del tickets[ticket]
        self._count -= 1
        if not tickets:
            del by_key[ticket.key]
            self._keys[ticket.priority].sleep(ticket.key)

    def next(self, may: May) -> Ticket | None:
        with_work = [name for name, by_key in self._waiting.items() if by_key]
        for priority in self._priorities.ordered(with_work):
            found = self._next_of(priority, may)
            if found is not None:
                self._priorities.serve(priority, found.tokens)
                return found
        return None

    def passed(self, ticket: Ticket) -> None:
        keys = self._keys[ticket.priority]
        if not self._waiting[ticket.priority]:
            self._priorities.wake(ticket.priority)
        if ticket.key not in self._waiting[ticket.priority]:
            keys.wake(ticket.key)
        self._priorities.serve(ticket.priority, ticket.tokens)
        keys.serve(ticket.key, ticket.tokens)

    def correct(self, ticket: Ticket, tokens: int) -> None:
        self._priorities.correct(ticket.priority, tokens)
        self._keys[ticket.priority].correct(ticket.key, tokens)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Ticket]:
        for by_key in self._waiting.values():
            for tickets in by_key.values():
                yield from tickets

    def _next_of(self, priority: str, may: May) -> Ticket | None:
        keys, by_key = self._keys[priority], self._waiting[priority]
        for key in keys.ordered(by_key):
            ticket = next(iter(by_key[key]))
            if may(ticket):
                keys.serve(key, ticket.tokens)
                self.remove(ticket)
                return ticket
        return None


LINES: dict[str, Callable[[], WaitingLine]] = {"fair": FairLine, "fifo": FirstComeLine}


def line(order: str) -> WaitingLine:
    """A waiting line of this order. Raises InvalidInput for an unknown one."""
    if order not in LINES:
        raise InvalidInput("queue_order", f"{order!r} is not known; known: {', '.join(LINES)}")
    return LINES[order]()
