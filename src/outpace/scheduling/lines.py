"""Orders of waiting: fair between keys and priorities, or first come first served. Pure: no clock, no tasks."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from typing import Protocol

from outpace.scheduling.pace import Work
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

    def ahead_of(self, ticket: Ticket) -> Work:
        """What would be served before a ticket that is added now, at most."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Ticket]: ...


class Backlog:
    """Tickets in the order they came, and the work in them."""

    def __init__(self) -> None:
        self.tickets: OrderedDict[Ticket, None] = OrderedDict()
        self.work = Work()

    def add(self, ticket: Ticket) -> None:
        """One more, behind the others."""
        self.tickets[ticket] = None
        self.work = self.work.plus(Work(ticket.prompt_tokens, ticket.output_tokens))

    def remove(self, ticket: Ticket) -> bool:
        """Take one out; False when it is not here."""
        if ticket not in self.tickets:
            return False
        del self.tickets[ticket]
        self.work = self.work.plus(Work(-ticket.prompt_tokens, -ticket.output_tokens))
        return True


class FirstComeLine:
    """One after the other, whoever asks; for comparison."""

    def __init__(self) -> None:
        self._backlog = Backlog()

    def add(self, ticket: Ticket) -> None:
        self._backlog.add(ticket)

    def remove(self, ticket: Ticket) -> None:
        self._backlog.remove(ticket)

    def next(self, may: May) -> Ticket | None:
        first = next(iter(self._backlog.tickets), None)
        if first is None or not may(first):
            return None
        self._backlog.remove(first)
        return first

    def ahead_of(self, ticket: Ticket) -> Work:
        return self._backlog.work

    def passed(self, ticket: Ticket) -> None: ...

    def correct(self, ticket: Ticket, tokens: int) -> None: ...

    def __len__(self) -> int:
        return len(self._backlog.tickets)

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self._backlog.tickets)


class FairLine:
    """Shares first between priorities, then between the keys of one; a key's own requests go in order.

    A priority or key whose next request may not go now does not keep the others from going.
    """

    def __init__(self) -> None:
        self._priorities = Shares(PRIORITY_WEIGHTS)
        self._keys = {name: Shares() for name in PRIORITY_WEIGHTS}
        self._waiting: dict[str, dict[str, Backlog]] = {name: {} for name in PRIORITY_WEIGHTS}
        self._count = 0

    def add(self, ticket: Ticket) -> None:
        by_key = self._waiting[ticket.priority]
        if not by_key:
            self._priorities.wake(ticket.priority)
        backlog = by_key.get(ticket.key)
        if backlog is None:
            backlog = by_key[ticket.key] = Backlog()
            self._keys[ticket.priority].wake(ticket.key)
        backlog.add(ticket)
        self._count += 1

    def remove(self, ticket: Ticket) -> None:
        by_key = self._waiting[ticket.priority]
        backlog = by_key.get(ticket.key)
        if backlog is None or not backlog.remove(ticket):
            return
        self._count -= 1
        if not backlog.tickets:
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
            for backlog in by_key.values():
                yield from backlog.tickets

    def ahead_of(self, ticket: Ticket) -> Work:
        by_key = self._waiting[ticket.priority]
        mine = by_key[ticket.key].work if ticket.key in by_key else Work()
        mine = mine.plus(Work(ticket.prompt_tokens, ticket.output_tokens))
        # Another key gets as much as this one meanwhile, if it has as much to do.
        ahead = mine.plus(Work(-ticket.prompt_tokens, -ticket.output_tokens))
        for key, backlog in by_key.items():
            if key != ticket.key:
                ahead = ahead.plus(backlog.work.at_most(*mine))
        for name, others in self._waiting.items():
            if name != ticket.priority:
                share = PRIORITY_WEIGHTS[name] / PRIORITY_WEIGHTS[ticket.priority]
                theirs = sum_of(backlog.work for backlog in others.values())
                ahead = ahead.plus(
                    theirs.at_most(
                        ahead.prompt_tokens * share, (ahead.output_tokens + ticket.output_tokens) * share
                    )
                )
        return ahead

    def _next_of(self, priority: str, may: May) -> Ticket | None:
        keys, by_key = self._keys[priority], self._waiting[priority]
        for key in keys.ordered(by_key):
            ticket = next(iter(by_key[key].tickets))
            if may(ticket):
                keys.serve(key, ticket.tokens)
                self.remove(ticket)
                return ticket
        return None


def sum_of(works: Iterable[Work]) -> Work:
    """All of them together."""
    return reduce(Work.plus, works, Work())


# `gang` is static batching: first come, in gangs (`gangs.py`).
LINES: dict[str, Callable[[], WaitingLine]] = {
    "fair": FairLine,
    "fifo": FirstComeLine,
    "gang": FirstComeLine,
}


def line(order: str) -> WaitingLine:
    """A waiting line of this order. Raises InvalidInput for an unknown one."""
    if order not in LINES:
        raise InvalidInput("queue_order", f"{order!r} is not known; known: {', '.join(LINES)}")
    return LINES[order]()
