"""Which replica gets a request: its prefix's home while that is not overloaded, else the least outstanding work. Pure.

Homes are found by rendezvous hashing, so that gateway workers agree without a word; a home that had to be given up for
the load is remembered by the worker that did.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

from outpace.scheduling.health import Health
from outpace.scheduling.prefill import Prefills
from outpace.scheduling.tickets import Ticket
from outpace.values.snapshot import ReplicaEntry

# A home may hold this multiple of the mean outstanding work ("consistent hashing with bounded loads", Mirrokni et
# al. 2016), and one request more for a prefix that lives there already.
_LOAD_BOUND = 1.25
_MOST_HOMES = 8_192


class ReplicaLoad:
    """One replica as a gateway worker sees it: what it sent there and has not back."""

    __slots__ = ("entry", "gang_left", "health", "in_flight", "limit", "prefills", "tokens")

    def __init__(self, entry: ReplicaEntry, limit: int | None) -> None:
        self.entry = entry
        # Requests at once from this worker; None: any number.
        self.limit = limit
        self.in_flight = 0
        # Prompt and output tokens expected of those.
        self.tokens = 0
        self.prefills = Prefills()
        self.health = Health()
        # Static batching: how many may still join the gang that starts; None: no gangs.
        self.gang_left: int | None = None

    def has_place(self, now_s: float) -> bool:
        """One more may be sent."""
        if self.gang_left is not None:
            return self.gang_left > 0
        return (self.limit is None or self.in_flight < self.limit) and self.health.is_usable(now_s)

    def may_read(self, ticket: Ticket, now_s: float) -> bool:
        """Its prompt may be read now, beside those that are."""
        return self.gang_left is not None or self.prefills.has_room(ticket, now_s)


class Homes:
    """Where prefixes live whose rendezvous home was too busy; the longest unused are forgotten."""

    def __init__(self) -> None:
        self._homes: OrderedDict[bytes, str] = OrderedDict()

    def of(self, prefix: bytes) -> str | None:
        """The replica's id, if it is known."""
        home = self._homes.get(prefix)
        if home is not None:
            self._homes.move_to_end(prefix)
        return home

    def settle(self, prefix: bytes, replica_id: str) -> None:
        """The prefix is there now."""
        self._homes[prefix] = replica_id
        self._homes.move_to_end(prefix)
        if len(self._homes) > _MOST_HOMES:
            self._homes.popitem(last=False)


def pick(
    replicas: Sequence[ReplicaLoad], ticket: Ticket, now_s: float, homes: Homes | None = None
) -> ReplicaLoad | None:
    """The replica with a place that should get the ticket; None when all are full, at rest, reading, or unable."""
    if len(replicas) == 1:
        only = replicas[0]
        return only if only.has_place(now_s) and only.may_read(ticket, now_s) else None
    free = [replica for replica in replicas if replica.has_place(now_s)]
    if len(free) > 1:
        free = [replica for replica in free if replica.entry.id not in ticket.excluded] or free
    if not free:
        return None
    if ticket.affinity is not None and homes is not None and len(free) > 1:
        # What its home has cached is worth waiting for while others' prompts are read there.
        home = _home(replicas, free, ticket, homes)
        return home if home.may_read(ticket, now_s) else None
    return min((replica for replica in free if replica.may_read(ticket, now_s)), key=_work, default=None)


def _home(
    replicas: Sequence[ReplicaLoad], free: Sequence[ReplicaLoad], ticket: Ticket, homes: Homes
) -> ReplicaLoad:
    assert ticket.affinity is not None
    prefix = ticket.affinity
    bound = _LOAD_BOUND * sum(replica.tokens for replica in replicas) / len(replicas)
    known = homes.of(prefix)
    for replica in free:
        if replica.entry.id == known and replica.tokens <= bound + ticket.tokens:
            return replica
    ranked = sorted(free, key=lambda replica: _rank(prefix, replica.entry.id), reverse=True)
    found = next((replica for replica in ranked if replica.tokens <= bound), None)
    found = found or min(free, key=_work)
    homes.settle(prefix, found.entry.id)
    return found


def _rank(prefix: bytes, replica_id: str) -> bytes:
    return hashlib.blake2b(replica_id.encode(), key=prefix, digest_size=8).digest()


def _work(replica: ReplicaLoad) -> tuple[int, int]:
    return replica.tokens, replica.in_flight
