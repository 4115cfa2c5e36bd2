"""The replicas of one deployment as a gateway worker sees them: places, load, trouble, and which variant serves."""

import math
from collections import Counter
from collections.abc import Sequence

from outpace.scheduling.arrivals import Lengths
from outpace.scheduling.company import Company
from outpace.scheduling.pace import Rates
from outpace.scheduling.prefill import budget_tokens
from outpace.scheduling.reserve import EXPECTED_FOR_S, may_take
from outpace.scheduling.routing import Homes, ReplicaLoad, pick
from outpace.scheduling.tickets import Ticket
from outpace.scheduling.variants import (
    Mix,
    Option,
    Peak,
    choose,
    choose_alone,
    mix_of,
    speed_at,
)
from outpace.values.signals import DeploymentDemand
from outpace.values.snapshot import DeploymentEntry, ReplicaEntry, VariantEntry

_MOST_KEYS_SEEN = 256
# Where batching gains nothing a profile says "one at a time"; then a second caller would wait for a whole answer.
_LEAST_PLACES = 4


class Replicas:
    """Who may have a place where. Time is an argument."""

    def __init__(self, num_workers: int = 1) -> None:
        self._num_workers = num_workers
        self._peers: Sequence[DeploymentDemand] = ()
        self._variants: dict[str, VariantEntry] = {}
        self._all: dict[str, ReplicaLoad] = {}
        # Those that serve new requests; the others only end what they have.
        self.current: list[ReplicaLoad] = []
        self._serving: str | None = None
        # Where the last request went that was alone.
        self._alone_at: str | None = None
        self._peak = Peak()
        self._company = Company()
        # What requests are like: fading means; None before the first.
        self._lengths: Lengths | None = None
        self._homes = Homes()
        self._running: dict[str, int] = {}
        self._key_seen_s: dict[str, float] = {}
        self._interactive_seen_s = -EXPECTED_FOR_S

    # -- what is known

    @property
    def in_flight(self) -> int:
        """Requests at the replicas now."""
        return sum(replica.in_flight for replica in self._all.values())

    @property
    def tokens(self) -> int:
        """Expected of those, prompt and output."""
        return sum(replica.tokens for replica in self._all.values())

    @property
    def num_elsewhere(self) -> int:
        """Requests that other workers have of this deployment, as last heard."""
        return sum(peer.running + peer.waiting for peer in self._peers)

    def in_flight_at(self, replica_id: str) -> int:
        """Requests at one replica now."""
        replica = self._all.get(replica_id)
        return replica.in_flight if replica is not None else 0

    def rates(self) -> Rates:
        """What the profile promises of the variant that serves, all replicas busy; of this worker's share of them."""
        variant = self._variants.get(self._serving or self._alone_at or "") or self._only_variant
        if variant is None or not variant.speeds:
            return Rates(None, None)
        own = [replica for replica in self.current if replica.entry.variant == variant.id]
        users = max((replica.limit or 1) for replica in own) if own else 1
        share = len(own) * self._own_share()
        prefill = variant.prefill_tokens_per_s
        return Rates(prefill and prefill * share, speed_at(variant.speeds, users) * share)

    def rest_s(self, now_s: float) -> float | None:
        """Until a replica may be tried again, when all of them are at rest; None when one is usable."""
        if not self.current or any(replica.health.is_usable(now_s) for replica in self.current):
            return None
        return max(0.0, min(replica.health.rests_until_s for replica in self.current) - now_s)

    # -- what changes

    def update(self, deployment: DeploymentEntry) -> None:
        """Take over a new snapshot's replicas; running requests keep the one they have."""
        self._variants = {variant.id: variant for variant in deployment.variants}
        self.current = [self._load_of(entry) for entry in deployment.replicas]
        kept = {replica.entry.id: replica for replica in self.current}
        leaving = {name: each for name, each in self._all.items() if each.in_flight and name not in kept}
        self._all = {**leaving, **kept}
        self._share_limits()

    def see_peers(self, peers: Sequence[DeploymentDemand]) -> None:
        """What the other workers have to do now."""
        self._peers = peers
        self._share_limits()

    def see(self, ticket: Ticket) -> None:
        """A request has come."""
        if self._lengths is None:
            self._lengths = Lengths(ticket.prompt_tokens, ticket.output_tokens)
        self._lengths.add(ticket.prompt_tokens, ticket.output_tokens)
        if ticket.priority == "interactive":
            self._interactive_seen_s = ticket.arrived_s
        seen = self._key_seen_s
        seen.pop(ticket.key, None)
        seen[ticket.key] = ticket.arrived_s
        if len(seen) > _MOST_KEYS_SEEN:
            del seen[next(iter(seen))]

    # -- places

    def place_for(self, ticket: Ticket, now_s: float, num_waiting: int = 0) -> ReplicaLoad | None:
        """Where the ticket may go now; None: nowhere yet."""
        if not self._may_take(ticket, now_s):
            return None
        able: Sequence[ReplicaLoad] = self.current
        if ticket.unable:
            able = [replica for replica in able if replica.entry.variant not in ticket.unable]
        if len(self._variants) > 1:
            if ticket.excluded:
                # Where it failed is no place to try again only because its variant is the better one.
                others = [each for each in able if each.entry.id not in ticket.excluded]
                able = [each for each in others if each.has_place(now_s)] or able
            able = self._of_best_variant(able, ticket, now_s, num_waiting)
        return pick(able, ticket, now_s, self._homes)

    def give(self, replica: ReplicaLoad, ticket: Ticket, now_s: float) -> None:
        """The ticket goes there."""
        if not self.in_flight and not self.num_elsewhere:
            self._company.began(ticket)
        replica.prefills.begin(ticket, now_s)
        replica.in_flight += 1
        replica.tokens += ticket.tokens
        if replica.gang_left is not None:
            replica.gang_left -= 1
        replica.health.sent()
        self._running[ticket.key] = self._running.get(ticket.key, 0) + 1

    def release(self, replica_id: str, ticket: Ticket) -> None:
        """The ticket's request there ended."""
        self._company.ended(ticket)
        running = self._running.pop(ticket.key, 1) - 1
        if running > 0:
            self._running[ticket.key] = running
        replica = self._all.get(replica_id)
        if replica is None:
            return
        replica.prefills.end(ticket)
        replica.in_flight -= 1
        replica.tokens -= ticket.tokens
        if not replica.in_flight and replica not in self.current:
            del self._all[replica_id]

    def wrote(self, replica_id: str, ticket: Ticket) -> bool:
        """The first token came: the prompt is read. False when nothing has changed by that."""
        replica = self._all.get(replica_id)
        return replica is not None and replica.prefills.end(ticket)

    def prefill_wait_s(self, now_s: float) -> float | None:
        """Until a prompt whose end nobody reports counts as read; None when there is none."""
        waits = [replica.prefills.wait_s(now_s) for replica in self.current]
        return min((wait for wait in waits if wait is not None), default=None)

    def answered(self, replica_id: str) -> None:
        """A replica answered, whatever it was."""
        if replica_id in self._all:
            self._all[replica_id].health.answered()

    def left(self, replica_id: str) -> None:
        """A request ended before its replica showed anything."""
        if replica_id in self._all:
            self._all[replica_id].health.left()

    def broke(self, replica_id: str, now_s: float, *, at_connect: bool) -> None:
        """A replica's connection broke."""
        if replica_id in self._all:
            self._all[replica_id].health.broke(now_s, at_connect=at_connect)

    # -- inside

    @property
    def _mix(self) -> Mix | None:
        if self._lengths is None:
            return None
        seen = self._lengths.traffic(requests_per_s=0.0)
        return mix_of(seen.input_tokens, seen.output_tokens)

    @property
    def _only_variant(self) -> VariantEntry | None:
        return next(iter(self._variants.values())) if len(self._variants) == 1 else None

    def _load_of(self, entry: ReplicaEntry) -> ReplicaLoad:
        load = self._known_or_new(entry)
        variant = self._variants.get(entry.variant) or self._only_variant
        load.prefills.tokens_per_s = variant.prefill_tokens_per_s if variant else None
        load.prefills.budget_tokens = budget_tokens(load.prefills.tokens_per_s, self._num_workers)
        return load

    def _known_or_new(self, entry: ReplicaEntry) -> ReplicaLoad:
        known = self._all.get(entry.id)
        # The same name at another address is another process: its trouble is its own.
        if known is None or known.entry.address != entry.address:
            return ReplicaLoad(entry, self._limit_of(entry))
        known.entry, known.limit = entry, self._limit_of(entry)
        return known

    def _limit_of(self, entry: ReplicaEntry) -> int | None:
        """What a profile found best, but never more than the replica runs: the line of an engine is not fair."""
        variant, places = self._variants.get(entry.variant), entry.max_in_flight
        if variant is None or variant.in_flight is None:
            return places
        best = math.ceil(max(variant.in_flight, _LEAST_PLACES) / self._num_workers)
        return best if places is None else min(best, places)

    def _share_limits(self) -> None:
        """Each worker has its share of a replica's places, and what the others do not use of theirs."""
        counts = Counter(replica.entry.variant for replica in self.current)
        for replica in self.current:
            share, num_replicas = self._limit_of(replica.entry), counts[replica.entry.variant]
            if share is None:
                continue
            unused = (self._num_workers - 1) * share * num_replicas - self.num_elsewhere
            replica.limit = share + max(0, unused) // num_replicas

    def _own_share(self) -> float:
        own = self.in_flight or 1
        return own / (own + self.num_elsewhere)

    def _of_best_variant(
        self, able: Sequence[ReplicaLoad], ticket: Ticket, now_s: float, num_waiting: int
    ) -> Sequence[ReplicaLoad]:
        usable = [replica for replica in able if replica.health.is_usable(now_s)]
        counts = Counter(replica.entry.variant for replica in usable)
        options = [
            Option(
                name,
                counts[name],
                variant.speeds,
                variant.prefill_tokens_per_s,
                variant.read_per_output,
                variant.guess_gains,
            )
            for name, variant in self._variants.items()
            if name in counts
        ]
        users = 1 + self.in_flight + num_waiting + self.num_elsewhere
        self._company.seen(users)
        most = max(self._peak.seen(users, now_s), self._company.expected())
        is_alone = most == 1
        if is_alone:
            own = mix_of(ticket.prompt_tokens, ticket.output_tokens)
            self._alone_at = chosen = choose_alone(options, self._alone_at, own)
        else:
            chosen = choose(options, most, self._serving, self._mix)
        if chosen is None:
            return able
        # What is best for one says nothing about those who come with the next one.
        if not is_alone and chosen != self._serving and len(usable) == len(self.current):
            # A request that only some variants can serve tells nothing about the others.
            self._serving = chosen
        return [replica for replica in usable if replica.entry.variant == chosen]

    def _may_take(self, ticket: Ticket, now_s: float) -> bool:
        is_batch, runs_already = ticket.priority == "batch", ticket.key in self._running
        if not is_batch and not runs_already:
            return True
        places, free = 0, 0
        # Places of a variant that does not serve now are no room.
        serving = [replica for replica in self.current if replica.entry.variant == self._serving]
        for replica in serving or self.current:
            if replica.limit is None or replica.gang_left is not None:
                return True
            places += replica.limit
            free += max(0, replica.limit - replica.in_flight)
        return may_take(
            places,
            free,
            yields_to_interactive=is_batch and now_s - self._interactive_seen_s < EXPECTED_FOR_S,
            yields_to_others=runs_already and self._has_others(ticket.key, now_s),
        )

    def _has_others(self, key: str, now_s: float) -> bool:
        recent_s = now_s - EXPECTED_FOR_S
        return any(name != key and seen_s > recent_s for name, seen_s in self._key_seen_s.items())
