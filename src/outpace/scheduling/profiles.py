"""What a profile says for scheduling: speeds, the best number at once, and where speculation wins."""

from collections.abc import Sequence
from statistics import median

import msgspec

from outpace.values.profile import LOADS, Conditions, LoadPoint, Profile, SpeculationPoint
from outpace.values.snapshot import GuessGain, SpeculationBand

# A load with this share of the highest throughput is as good as the best. Sweeps ask for short answers: where those
# gain nothing by more at once, longer ones still do.
_ENOUGH = 0.95
# A live figure moves the profile by this share of the difference: a hundred answers replace a sweep.
_LIVE_WEIGHT = 0.03
# Beyond this a live figure says that the machine was busy with something else, not how fast the variant is.
_LIVE_FACTOR = 3.0


class VariantFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a `VariantEntry` that a profile fills."""

    speeds: tuple[tuple[int, float], ...] = ()
    prefill_tokens_per_s: float | None = None
    read_per_output: float = 0.0
    in_flight: int | None = None
    speculation: tuple[SpeculationBand, ...] = ()


UNMEASURED = VariantFigures()

# Engines keep every core: what others take costs them several times as much, because their threads wait for each other
# (llama.cpp beside one busy program of the lowest priority: 26 instead of 88 tok/s; docs/lab/LOG.md, 2026-11-29).
MOST_OTHERS_SHARE = 0.15


def variant_figures(profile: Profile | None, places: int) -> VariantFigures:
    """What the gateway is told of a profile, for replicas that run `places` at once; nothing is claimed without one."""
    if profile is None:
        return UNMEASURED
    points = reachable(profile.points, places)
    return VariantFigures(
        speeds=tuple((point.users, point.output_tokens_per_s) for point in points),
        prefill_tokens_per_s=profile.prefill_tokens_per_s,
        read_per_output=profile.read_per_output,
        in_flight=None if is_cut(profile.points) else best_concurrency(points),
        speculation=speculation_bands(profile.speculation),
    )


def reachable(points: Sequence[LoadPoint], places: int) -> tuple[LoadPoint, ...]:
    """Those of a sweep that a replica of so many places comes to: a sweep has shorter contexts, and more places."""
    return tuple(point for point in points if point.users <= max(places, 1))


def best_concurrency(points: Sequence[LoadPoint]) -> int | None:
    """The most requests at once that give nearly the highest throughput; None when nothing was measured."""
    if not points:
        return None
    enough = _ENOUGH * max(point.output_tokens_per_s for point in points)
    return max(point.users for point in points if point.output_tokens_per_s >= enough)


def is_cut(points: Sequence[LoadPoint]) -> bool:
    """The time ended at a load that was clearly better than the one before: more at once may be better still.

    How many are best at once is then not known.
    """
    if not points or points[-1].users >= LOADS[-1]:
        return False
    before = max((point.output_tokens_per_s for point in points[:-1]), default=0.0)
    return before < _ENOUGH * points[-1].output_tokens_per_s


def is_disturbed(profile: Profile) -> bool:
    """Other programs were at work when it was measured: it may say a fraction of what the variant can do."""
    return profile.others_share is not None and profile.others_share > MOST_OTHERS_SHARE


def speculation_bands(points: Sequence[SpeculationPoint]) -> tuple[SpeculationBand, ...]:
    """By method and load, the gain over all workloads that were tried, as their geometric middle; ascending."""
    found: dict[tuple[str, int], list[float]] = {}
    for point in points:
        found.setdefault((point.method, point.users), []).append(point.gain)
    return tuple(
        SpeculationBand(method=method, most_users=users, gain=round(median(gains), 4))
        for (method, users), gains in sorted(found.items())
    )


def guess_gains(points: Sequence[SpeculationPoint], method: str) -> tuple[GuessGain, ...]:
    """What one way of guessing gained, by load and length of prompts; older profiles do not tell the length."""
    return tuple(
        GuessGain(users=point.users, prompt_tokens=point.prompt_tokens, gain=point.gain)
        for point in points
        if point.method == method and point.prompt_tokens
    )


def refusal(profile: Profile, now: Conditions) -> str | None:
    """Why a profile does not hold under these conditions; None when it does."""
    then = profile.conditions
    for name, words in _WORDS.items():
        before, here = getattr(then, name), getattr(now, name)
        if before != here:
            return f"{words} {before}, this is {here}; `outpace profile` measures again"
    return None


def refined(profile: Profile, users: int, output_tokens_per_s: float) -> Profile:
    """The profile moved a little towards what live traffic showed at `users` at once.

    A figure far off is left out: it tells of other programs on the machine.
    """
    points = list(profile.points)
    index = _nearest(points, users)
    if index is None or output_tokens_per_s <= 0:
        return profile
    known = points[index].output_tokens_per_s
    if not known / _LIVE_FACTOR <= output_tokens_per_s <= known * _LIVE_FACTOR:
        return profile
    moved = known + _LIVE_WEIGHT * (output_tokens_per_s - known)
    points[index] = msgspec.structs.replace(points[index], output_tokens_per_s=moved)
    return msgspec.structs.replace(profile, points=tuple(points), refined_by=profile.refined_by + 1)


_WORDS = {
    "machine": "the profile is of another machine:",
    "engine": "the profile is of another engine:",
    "engine_version": "the profile is of another engine version:",
    "artifact_sha256": "the profile is of other weights:",
    "model": "the profile is of another model:",
    "settings": "the profile is of other settings:",
}


def _nearest(points: Sequence[LoadPoint], users: int) -> int | None:
    """The measured load that is the same within a quarter; a figure between two loads belongs to neither."""
    for index, point in enumerate(points):
        if abs(point.users - users) <= point.users / 4:
            return index
    return None
