"""Pure measures of how far a candidate is from its reference on one item."""

import json
import math
from collections.abc import Mapping, Sequence

import msgspec

from outpace.precision.items import Item
from outpace.precision.traces import Step, Trace

_TINY = 1e-9
# A text collapsed when one short piece fills its end: `period` characters, repeated for at least this many.
_LONGEST_PERIOD = 48
_COLLAPSED_CHARACTERS = 96
_FEWEST_REPEATS = 4


class ItemResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one item showed; None where it was not asked."""

    item_id: str
    kind: str
    # Mean over positions: KL divergence (nats), share of positions with another favourite, and how much less
    # likely (nats) the candidate finds the reference's token.
    kl: float
    disagreement: float
    loss_increase: float
    num_positions: int
    # First position where greedy decoding parts; None when it does not within the positions.
    diverged_at: int | None
    reference_text: str
    candidate_favourites: tuple[int, ...] = ()
    candidate_text: str | None = None
    # 1.0 when the JSON differs. 1.0 when only the candidate's text collapsed, -1.0 when only the reference's did.
    structured_mismatch: float | None = None
    collapse: float | None = None


def compare(
    item: Item,
    reference: Trace,
    steps: Sequence[Step],
    answers: tuple[str, str] | None = None,
) -> ItemResult:
    """Measure a candidate's `steps` under the reference's continuation, and the pair of free answers if asked."""
    pairs = list(zip(reference.steps, steps, strict=True))
    favourites = tuple(own.favourite for own in steps)
    parted = [position for position, (said, own) in enumerate(pairs) if own.favourite != said.token]
    mismatch, collapse = _compare_answers(item, answers)
    return ItemResult(
        item_id=item.id,
        kind=item.kind,
        kl=_mean([divergence(said.top, own.top) for said, own in pairs]),
        disagreement=_mean([float(said.favourite != own.favourite) for said, own in pairs]),
        # A schema may force tokens that the reference itself does not list: they say nothing.
        loss_increase=_mean([_loss(own) - _loss(said) for said, own in pairs if said.token in said.top]),
        num_positions=len(pairs),
        diverged_at=parted[0] if parted and item.schema is None else None,
        reference_text=answers[0] if answers else reference.text,
        candidate_text=answers[1] if answers else None,
        candidate_favourites=favourites,
        structured_mismatch=mismatch,
        collapse=collapse,
    )


def divergence(reference: Mapping[int, float], candidate: Mapping[int, float]) -> float:
    """KL divergence (nats) of the reference's most likely tokens plus one cell for all others.

    Merging cells can only lower a divergence (data processing inequality), and a token that the candidate does
    not list is taken at the candidate's lowest listed probability: the figure is a lower bound, tight when the
    lists hold nearly all mass.
    """
    floor = min(candidate.values())
    total = rest_reference = rest_candidate = 0.0
    for token, log_p in reference.items():
        log_q = candidate.get(token, floor)
        total += math.exp(log_p) * (log_p - log_q)
        rest_reference += math.exp(log_p)
        rest_candidate += math.exp(log_q)
    rest_p, rest_q = max(1 - rest_reference, _TINY), max(1 - rest_candidate, _TINY)
    return max(0.0, total + rest_p * math.log(rest_p / rest_q))


def is_collapsed(text: str) -> bool:
    """Whether the text ends in one short piece over and over: the failure that benchmarks count as speed."""
    tail = text.rstrip()
    for period in range(1, min(_LONGEST_PERIOD, len(tail) // _FEWEST_REPEATS) + 1):
        length = max(_COLLAPSED_CHARACTERS, period * _FEWEST_REPEATS)
        if len(tail) >= length and tail[-length:] == (tail[-period:] * (length // period + 1))[-length:]:
            return True
    return False


def is_same_json(reference: str, candidate: str) -> bool:
    """Whether both parse and mean the same; two texts that both fail to parse must be equal."""
    try:
        return bool(json.loads(reference) == json.loads(candidate))
    except json.JSONDecodeError:
        return reference == candidate


def _compare_answers(item: Item, answers: tuple[str, str] | None) -> tuple[float | None, float | None]:
    if answers is None:
        return None, None
    reference, candidate = answers
    if item.schema is not None:
        return float(not is_same_json(reference, candidate)), None
    return None, float(is_collapsed(candidate)) - float(is_collapsed(reference))


def _loss(step: Step) -> float:
    """Minus log-probability of the token; one that is not listed is at most as likely as the least listed."""
    return -step.top.get(step.token, min(step.top.values()))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
