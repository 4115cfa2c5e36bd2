"""Whether to guess tokens ahead: from what the profile measured, and from what live answers show. Pure."""

import math
from collections.abc import Mapping, Sequence

import msgspec

from outpace.values.profile import SpeculationPoint
from outpace.values.snapshot import SpeculationBand

# Off is never beaten by less than this, and on never costs more: what a measurement can tell from noise.
WORTH = 1.10
HARMLESS = 0.97
# Share of requests that go the other way, as proof that the choice still holds: of those that are alone, since beside
# others guesses cost everybody's time and would be judged by whom they serve.
SLICE = 0.04
# Answers of each way at a load before live figures overrule the profile.
ENOUGH_ANSWERS = 24
# Guesses before live acceptance counts, and the share of the profile's acceptance below which it is another text.
ENOUGH_GUESSES = 2_000
FALLEN = 0.5
# Older answers fade: each new one weighs this much at least.
_FADE = 0.02
# A replica has its method at every load: without a look at this many users nothing is known of a full one.
MANY_USERS = 16
# Without two workloads that were measured nothing is known of the other kind of text.
_LEAST_WORKLOADS = 2


class MethodChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The method to launch a replica with; None: without. `reason` is for people."""

    method: str | None = None
    reason: str


def choose_method(
    points: Sequence[SpeculationPoint],
    stopped: Mapping[str, str] | None = None,
    *,
    is_switched: bool = False,
) -> MethodChoice:
    """The method that wins most and, where a replica has it at every load, loses nowhere.

    Gains are tokens/s on divided by off, per load and workload. `stopped` are methods that live answers have ended;
    `is_switched`: the engine is told per request, so that a loss at some load costs nothing.
    """
    stopped = stopped or {}
    points = [point for point in points if point.method not in stopped]
    if not points:
        words = "; ".join(f"{method} was stopped: {why}" for method, why in stopped.items())
        return MethodChoice(reason=words or "not measured yet")
    by_method: dict[str, list[SpeculationPoint]] = {}
    for point in points:
        by_method.setdefault(point.method, []).append(point)
    judged = {method: _judge(own, is_switched) for method, own in by_method.items()}
    winners = {method: gain for method, (gain, _) in judged.items() if gain is not None}
    if not winners:
        return MethodChoice(reason="; ".join(f"{method}: {why}" for method, (_, why) in judged.items()))
    best = max(winners, key=lambda method: winners[method])
    return MethodChoice(method=best, reason=judged[best][1])


def _judge(points: Sequence[SpeculationPoint], is_switched: bool) -> tuple[float | None, str]:
    """The mean gain (geometric) of a method that may be on, and the words."""
    if len({point.workload for point in points}) < _LEAST_WORKLOADS:
        return None, "only one kind of text was measured"
    most_users = max(point.users for point in points)
    if most_users < MANY_USERS and not is_switched:
        return None, f"measured up to {most_users} at once only"
    best, worst = max(points, key=_gain), min(points, key=_gain)
    if worst.gain < HARMLESS and not is_switched:
        return None, f"{worst.gain:.2f}x on {worst.workload} at {worst.users} at once"
    if best.gain < WORTH:
        return None, f"at most {best.gain:.2f}x"
    words = f"{best.gain:.2f}x on {best.workload} at {best.users} at once"
    if not is_switched:
        words += f", never below {worst.gain:.2f}x"
    return math.exp(sum(math.log(point.gain) for point in points) / len(points)), words


def _gain(point: SpeculationPoint) -> float:
    return point.gain


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """Live answers that went one way at a load: how many, and the fading mean of the logarithm of their tokens/s."""

    answers: int = 0
    log_rate: float = 0.0

    def with_answer(self, tokens_per_s: float) -> "Way":
        """One more answer."""
        weight = max(_FADE, 1 / (self.answers + 1))
        moved = self.log_rate + weight * (math.log(tokens_per_s) - self.log_rate)
        return Way(answers=self.answers + 1, log_rate=moved)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What live answers showed of speculation, by load band; and what became of the guesses."""

    on: Mapping[int, Way] = {}
    off: Mapping[int, Way] = {}
    drafted_tokens: int = 0
    accepted_tokens: int = 0

    def live_gain(self, band: int) -> float | None:
        """Tokens/s per request on divided by off at a load; None before both ways have enough answers."""
        on, off = self.on.get(band, Way()), self.off.get(band, Way())
        if min(on.answers, off.answers) < ENOUGH_ANSWERS:
            return None
        return math.exp(on.log_rate - off.log_rate)

    @property
    def acceptance(self) -> float | None:
        """Share of guesses that were right; None before there are enough."""
        if self.drafted_tokens < ENOUGH_GUESSES:
            return None
        return self.accepted_tokens / self.drafted_tokens


def noted(
    record: Record, band: int, *, is_on: bool, tokens_per_s: float, drafted: int = 0, accepted: int = 0
) -> Record:
    """The record with one more answer; `tokens_per_s` is of the request after its first token."""
    if tokens_per_s <= 0:
        return record
    ways = dict(record.on if is_on else record.off)
    ways[band] = ways.get(band, Way()).with_answer(tokens_per_s)
    return Record(
        on=ways if is_on else record.on,
        off=record.off if is_on else ways,
        drafted_tokens=record.drafted_tokens + drafted,
        accepted_tokens=record.accepted_tokens + accepted,
    )


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """The decision for one request, the load band that it counts to, and why."""

    speculate: bool
    band: int
    reason: str
    is_slice: bool = False


def gate(bands: Sequence[SpeculationBand], users: int, record: Record, dice: float) -> Gate:
    """Whether one request speculates, where that can be said per request; `dice` is uniform in [0, 1).

    The profile's gain at the present load decides until enough answers of both ways are known; then they do. A small
    slice of requests that are alone goes the other way: it is the proof, and the way back.
    """
    band = band_of(bands, users)
    if band is None:
        return Gate(speculate=False, band=users, reason="not measured at this load")
    live = record.live_gain(band.most_users)
    known = band.gain if live is None else live
    wins = known >= 1.0
    words = f"{known:.2f}x {'live' if live is not None else 'in the profile'} up to {band.most_users} at once"
    if users <= 1 and dice < SLICE:
        return Gate(speculate=not wins, band=band.most_users, reason=f"slice against {words}", is_slice=True)
    return Gate(speculate=wins, band=band.most_users, reason=words)


def band_of(bands: Sequence[SpeculationBand], users: int) -> SpeculationBand | None:
    """The measured load that covers `users` at once; the largest one where a full replica was measured, else None."""
    full = max((band.most_users for band in bands), default=0)
    reached = min(users, full) if full >= MANY_USERS else users
    fitting = [band for band in bands if band.most_users >= reached]
    return min(fitting, key=lambda band: (band.most_users, -band.gain), default=None)


def kill_reason(points: Sequence[SpeculationPoint], method: str, drafted: int, accepted: int) -> str | None:
    """Why a method that a replica was launched with must end: live guesses are mostly wrong; None while it may stay."""
    if drafted < ENOUGH_GUESSES:
        return None
    own = [point for point in points if point.method == method]
    expected_drafted = sum(point.drafted_tokens for point in own)
    if not expected_drafted:
        return None
    expected = sum(point.accepted_tokens for point in own) / expected_drafted
    live = accepted / drafted
    if live >= FALLEN * expected:
        return None
    return f"{live:.0%} of {drafted} live guesses were right, {expected:.0%} when it was measured"
