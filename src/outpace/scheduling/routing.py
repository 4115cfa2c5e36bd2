"""Which replica gets a request: the least outstanding work in tokens. Pure."""

from collections.abc import Sequence

from outpace.scheduling.tickets import Ticket
from outpace.values.snapshot import ReplicaEntry


class ReplicaLoad:
    """One replica as a gateway worker sees it: what it sent there and has not back."""

    __slots__ = ("avoid_until_s", "entry", "in_flight", "limit", "tokens")

    def __init__(self, entry: ReplicaEntry, limit: int | None) -> None:
        self.entry = entry
        # Requests at once from this worker; None: any number.
        self.limit = limit
        self.in_flight = 0
        # Prompt and output tokens expected of those.
        self.tokens = 0
        # Until then it gets nothing, unless every other is worse.
        self.avoid_until_s = 0.0

    @property
    def has_place(self) -> bool:
        """One more may be sent."""
        return self.limit is None or self.in_flight < self.limit


def pick(replicas: Sequence[ReplicaLoad], ticket: Ticket, now_s: float) -> ReplicaLoad | None:
    """The replica with a place that has the least to do; ones in trouble only as a last resort."""
    if len(replicas) == 1:
        only = replicas[0]
        return only if only.has_place and _can_serve(only, ticket) else None
    free = [replica for replica in replicas if replica.has_place and _can_serve(replica, ticket)]
    if not free:
        return None
    return min(
        free,
        key=lambda replica: (
            replica.entry.id in ticket.excluded,
            replica.avoid_until_s > now_s,
            replica.tokens,
            replica.in_flight,
        ),
    )


def _can_serve(replica: ReplicaLoad, ticket: Ticket) -> bool:
    return ticket.variants is None or replica.entry.variant in ticket.variants
