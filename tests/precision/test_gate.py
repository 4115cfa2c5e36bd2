"""The gate's decision and its loop, with scorers that say what a test wants."""

import msgspec
import pytest
from tests.precision.small import FakeScorer, item_set, subject

from outpace.precision.gate import decide, run_gate
from outpace.precision.items import Item
from outpace.precision.limits import limits
from outpace.precision.measures import ItemResult
from outpace.precision.traces import Trace
from outpace.values.clock import ManualClock

SAME = (-0.2, -2.0, -4.0)
CLOSE = (-0.21, -1.98, -4.0)
FAR = (-4.0, -0.2, -2.0)


async def outcome_of(
    candidate: FakeScorer, count: int = 120, *, stops_early: bool = True
) -> tuple[str, int, str]:
    verdict, _ = await run_gate(
        FakeScorer(*SAME), candidate, item_set(count), subject(), ManualClock(), stops_early=stops_early
    )
    return verdict.outcome, verdict.num_items, verdict.reason


async def test_what_says_the_same_passes_before_the_items_end() -> None:
    outcome, num_items, _ = await outcome_of(FakeScorer(*CLOSE), 400)
    assert outcome == "pass"
    assert num_items < 200


async def test_what_is_broken_is_refused_after_the_first_wave() -> None:
    outcome, num_items, reason = await outcome_of(FakeScorer(*FAR))
    assert (outcome, num_items) == ("refuse", 8)
    assert "above" in reason


async def test_collapse_alone_refuses() -> None:
    outcome, _, reason = await outcome_of(FakeScorer(*CLOSE, text="again " * 60), 400)
    assert outcome == "refuse"
    assert "collapse" in reason


class CollapsesOn(FakeScorer):
    """Repeats itself on some items, and is close on all."""

    def __init__(self, *item_ids: str) -> None:
        super().__init__(*CLOSE)
        self._item_ids = item_ids

    async def continue_greedily(self, item: Item, *, at_length: bool = False) -> Trace:
        return msgspec.structs.replace(
            await super().continue_greedily(item, at_length=at_length), text=await self.answer(item)
        )

    async def answer(self, item: Item) -> str:
        return "again " * 60 if item.id in self._item_ids else "fine"


async def test_what_repeats_itself_as_often_as_the_reference_passes() -> None:
    verdict, _ = await run_gate(
        CollapsesOn("i0", "i24"), CollapsesOn("i12", "i18"), item_set(236), subject(), ManualClock()
    )
    metric = verdict.metric("collapse")
    assert metric is not None
    assert (verdict.outcome, metric.value) == ("pass", 0.0)


async def test_where_only_a_few_long_answers_are_in_the_way_more_are_asked_for() -> None:
    # Two of the first 15 long answers are 13 %; of all that could be asked they are 1 %.
    verdict, results = await run_gate(
        FakeScorer(*SAME), CollapsesOn("i0", "i6"), item_set(236), subject(), ManualClock()
    )
    asked = [number for number, result in enumerate(results) if result.collapse is not None]
    assert verdict.outcome == "pass"
    assert len(asked) > len(results) / 6 + 20
    assert asked[-1] - asked[-2] == 1


async def test_what_goes_on_collapsing_does_not_pass_by_more_answers() -> None:
    candidate = CollapsesOn(*(f"i{number}" for number in range(0, 236, 12)))
    verdict, results = await run_gate(FakeScorer(*SAME), candidate, item_set(236), subject(), ManualClock())
    assert verdict.outcome != "pass"
    assert sum(result.collapse is not None for result in results) > 60


async def test_too_few_items_decide_nothing() -> None:
    assert (await outcome_of(FakeScorer(*CLOSE), 30))[0] == "undecided"


async def test_without_early_stop_all_items_are_asked() -> None:
    assert (await outcome_of(FakeScorer(*FAR), 64, stops_early=False))[1] == 64


async def test_the_worst_items_can_be_read_side_by_side() -> None:
    verdict, _ = await run_gate(
        FakeScorer(*SAME, text="right"), FakeScorer(*FAR, text="wrong"), item_set(), subject(), ManualClock()
    )
    assert {(example.reference, example.candidate) for example in verdict.worst} == {("right", "wrong")}


def results(count: int, kind: str, kl: float) -> list[ItemResult]:
    return [
        ItemResult(
            item_id=f"{kind}{number}",
            kind=kind,
            kl=kl,
            disagreement=0.01,
            loss_increase=0.0,
            num_positions=16,
            diverged_at=None,
            reference_text="",
        )
        for number in range(count)
    ]


def test_no_pass_before_every_kind_was_seen() -> None:
    seen = results(150, "single", 0.001)
    assert decide(seen, frozenset({"single"})).outcome == "pass"
    decision = decide(seen, frozenset({"single", "long"}))
    assert decision.outcome == "undecided"
    assert "long" in decision.reason


def test_a_format_that_ruins_long_contexts_only_is_refused() -> None:
    decision = decide(
        [*results(120, "single", 0.001), *results(20, "long", 0.4)], frozenset({"single", "long"})
    )
    assert decision.outcome == "refuse"
    assert "long" in decision.reason


@pytest.mark.parametrize("name", ["kl", "disagreement", "structured_mismatch", "collapse", "kind_kl"])
def test_every_limit_has_a_source(name: str) -> None:
    assert limits()[name].source
    assert 0 < limits()[name].limit < limits()[name].cap
