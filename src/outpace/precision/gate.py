"""The gate: ask both, measure, stop as soon as the answer is clear. The decision is a pure function of the results."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from statistics import median

import msgspec

from outpace.precision.items import Item, ItemSet
from outpace.precision.limits import Limit, limits
from outpace.precision.measures import ItemResult, compare
from outpace.precision.sequential import interval, is_shown_above, is_shown_below
from outpace.precision.traces import Scorer
from outpace.precision.verdict import Example, Measured, Outcome, Shown, Subject, Verdict
from outpace.values.clock import Clock

# False pass and false refusal, each at most this probable whenever one stops.
ALPHA = 0.05
_FEWEST_TO_PASS = 48
_FEWEST_OF_A_KIND = 8
# Items between two decisions; the first few are enough for what is broken outright.
WAVE_ITEMS = 16
FIRST_WAVE_ITEMS = 8
# Every n-th item is answered freely and at length by both, and every item with a schema.
FREE_ANSWER_EVERY = 6
_WORST = 3
_SHOWN_CHARACTERS = 400


class Decision(msgspec.Struct, frozen=True):
    """What the results so far say; `undecided` means: go on, or out of items."""

    outcome: Outcome
    reason: str
    metrics: tuple[Measured, ...]
    # The first metric that still stands between the candidate and a pass.
    open_metric: str | None = None


Watch = Callable[[int, int, Decision], None]


async def run_gate(
    reference: Scorer,
    candidate: Scorer,
    item_set: ItemSet,
    subject: Subject,
    clock: Clock,
    watch: Watch = lambda done, total, decision: None,
    *,
    stops_early: bool = True,
) -> tuple[Verdict, list[ItemResult]]:
    """Ask both sides wave by wave until the decision is clear or the items end."""
    began_s = clock.monotonic_s()
    results: list[ItemResult] = []
    kinds = frozenset(item.kind for item in item_set.items)
    decision = decide(results, kinds)
    total = len(item_set.items)
    for wave in waves(item_set.items):
        # What a few long answers showed may be chance: where only they are in the way, every item is answered so.
        everyone = decision.open_metric == "collapse"
        results += await asyncio.gather(
            *(
                _ask(item, reference, candidate, at_length=is_answered_freely(item, index, everyone=everyone))
                for index, item in wave
            )
        )
        decision = decide(results, kinds)
        watch(len(results), total, decision)
        if stops_early and decision.outcome != "undecided":
            break
    await _complete_worst(results, item_set, reference, candidate)
    verdict = conclude(decision, results, item_set, subject, clock.monotonic_s() - began_s, clock.wall_s())
    return verdict, results


def waves(items: Sequence[Item]) -> Iterator[list[tuple[int, Item]]]:
    """Items with their places, in the pieces after which a decision is taken."""
    numbered = list(enumerate(items))
    yield numbered[:FIRST_WAVE_ITEMS]
    for start in range(FIRST_WAVE_ITEMS, len(numbered), WAVE_ITEMS):
        yield numbered[start : start + WAVE_ITEMS]


async def _ask(item: Item, reference: Scorer, candidate: Scorer, *, at_length: bool) -> ItemResult:
    said = await reference.continue_greedily(item, at_length=at_length)
    steps = await candidate.follow(item, said.tokens)
    return compare(item, said, steps, (said.text, await candidate.answer(item)) if at_length else None)


def is_answered_freely(item: Item, index: int, *, everyone: bool = False) -> bool:
    """Whether both sides answer this item at length too: decided before anything of it is seen.

    `everyone`: not only every n-th, because what long answers show is all that is open.
    """
    if item.schema is not None:
        return True
    return item.document is None and (everyone or index % FREE_ANSWER_EVERY == 0)


def decide(results: Sequence[ItemResult], kinds: frozenset[str] = frozenset()) -> Decision:
    """Pass, refuse or undecided; a pass needs items of all `kinds`.

    Refusals share `ALPHA` (Bonferroni); a pass needs every condition at once, so each may use all of it
    (intersection-union test, Berger 1982).
    """
    columns = _columns(results)
    alpha_each = ALPHA / max(len(columns), 1)
    metrics = tuple(_measure(name, values, limit, alpha_each) for name, values, limit in columns)
    above = [metric for metric in metrics if metric.shown == "above"]
    if above:
        worst = max(above, key=lambda metric: metric.value / metric.limit)
        return Decision("refuse", f"{worst.name} {worst.value:.3f} is above {worst.limit:g}", metrics)
    missing = _missing_to_pass(results, kinds, columns, metrics)
    if missing is None:
        return Decision("pass", "every metric is within its limit", metrics)
    return Decision("undecided", missing.reason, metrics, missing.metric)


def conclude(
    decision: Decision,
    results: Sequence[ItemResult],
    item_set: ItemSet,
    subject: Subject,
    duration_s: float,
    decided_at: float,
) -> Verdict:
    """The verdict with its evidence."""
    prompts = {item.id: item.messages[-1].content for item in item_set.items}
    parted = [result.diverged_at for result in results if result.diverged_at is not None]
    return Verdict(
        outcome=decision.outcome,
        reason=decision.reason,
        subject=subject,
        metrics=decision.metrics,
        worst=tuple(_examples(results, prompts)),
        num_items=len(results),
        num_positions=sum(result.num_positions for result in results),
        median_divergence_tokens=median(parted) if parted else None,
        confidence=1 - ALPHA,
        decided_at=decided_at,
        duration_s=duration_s,
    )


_Column = tuple[str, list[float], Limit]


def _columns(results: Sequence[ItemResult]) -> list[_Column]:
    """Values per metric, in the order in which they came; kinds too thin to judge are left out."""
    bounds = limits()
    bad_from = 5 * bounds["kl"].limit
    columns: list[_Column] = [
        ("kl", [result.kl for result in results], bounds["kl"]),
        ("disagreement", [result.disagreement for result in results], bounds["disagreement"]),
        ("loss_increase", [result.loss_increase for result in results], bounds["loss_increase"]),
        ("bad_items", [float(result.kl > bad_from) for result in results], bounds["bad_items"]),
        (
            "structured_mismatch",
            _present(result.structured_mismatch for result in results),
            bounds["structured_mismatch"],
        ),
        ("collapse", _present(result.collapse for result in results), bounds["collapse"]),
    ]
    for kind in sorted({result.kind for result in results}):
        values = [result.kl for result in results if result.kind == kind]
        if len(values) >= _FEWEST_OF_A_KIND:
            columns.append((f"kl in {kind}", values, bounds["kind_kl"]))
    return columns


def _present(values: Iterator[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _measure(name: str, values: list[float], limit: Limit, alpha: float) -> Measured:
    shifted = [max(value - limit.floor, 0.0) for value in values]
    width, above_floor = limit.cap - limit.floor, limit.limit - limit.floor
    low, high = interval(shifted, width, alpha) if values else (0.0, width)
    shown: Shown = "open"
    if is_shown_above(shifted, above_floor, width, alpha):
        shown = "above"
    elif is_shown_below(shifted, above_floor, width, ALPHA):
        shown = "below"
    return Measured(
        name=name,
        value=sum(values) / len(values) if values else 0.0,
        low=low + limit.floor,
        high=high + limit.floor,
        limit=limit.limit,
        num_items=len(values),
        unit=limit.unit,
        shown=shown,
    )


class _Missing(msgspec.Struct, frozen=True):
    """What a pass still lacks, and in which metric if it is one."""

    reason: str
    metric: str | None = None


def _missing_to_pass(
    results: Sequence[ItemResult],
    kinds: frozenset[str],
    columns: list[_Column],
    metrics: Sequence[Measured],
) -> _Missing | None:
    """The first thing that a pass still lacks; None when nothing."""
    if len(results) < _FEWEST_TO_PASS:
        return _Missing(f"{len(results)} of at least {_FEWEST_TO_PASS} items")
    thin = sorted(
        kind for kind in kinds if sum(result.kind == kind for result in results) < _FEWEST_OF_A_KIND
    )
    if thin:
        return _Missing(f"fewer than {_FEWEST_OF_A_KIND} items of kind {', '.join(thin)}")
    for (name, _, limit), metric in zip(columns, metrics, strict=True):
        if limit.shown and metric.shown != "below":
            return _Missing(f"{name} {metric.value:.3f} is not yet shown below {limit.limit:g}", name)
        if not limit.shown and metric.value > limit.limit:
            return _Missing(
                f"{name} {metric.value:.3f} is above {limit.limit:g}, but too few items show it", name
            )
    return None


async def _complete_worst(
    results: list[ItemResult], item_set: ItemSet, reference: Scorer, candidate: Scorer
) -> None:
    """Have the worst items answered at length by both, so that a person can read them side by side."""
    items = {item.id: item for item in item_set.items}
    silent = [(index, result) for index, result in _worst(results) if result.candidate_text is None]
    asked = [items[result.item_id] for _, result in silent]
    said = await asyncio.gather(*map(reference.answer, asked))
    own = await asyncio.gather(*map(candidate.answer, asked))
    for (index, result), right, wrong in zip(silent, said, own, strict=True):
        results[index] = msgspec.structs.replace(result, reference_text=right, candidate_text=wrong)


def _worst(results: Sequence[ItemResult]) -> list[tuple[int, ItemResult]]:
    return sorted(enumerate(results), key=lambda pair: -pair[1].kl)[:_WORST]


def _examples(results: Sequence[ItemResult], prompts: dict[str, str]) -> Iterator[Example]:
    for _, result in _worst(results):
        yield Example(
            item_id=result.item_id,
            kind=result.kind,
            kl=result.kl,
            prompt=prompts.get(result.item_id, "")[-_SHOWN_CHARACTERS:],
            reference=result.reference_text[:_SHOWN_CHARACTERS],
            candidate=(result.candidate_text or "")[:_SHOWN_CHARACTERS],
        )
