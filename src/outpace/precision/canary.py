"""The canary: a few prompts whose tokens were recorded when the variant was proven, asked again after every start."""

import math
from collections.abc import Sequence

import msgspec

from outpace.precision.items import Item, Turn
from outpace.precision.traces import Scorer, Step, Trace

# Rounding in batches may move a log-probability a little; a broken wake moves them by nats.
_TOLERANCE_NATS = 0.15
# Two tokens that were this close may change places by rounding.
_TIE_NATS = 0.1
_MOST_MISSES = 0
# Positions of each answer that are asked again: every start waits for them, and what is broken shows at once.
_CHECKED_TOKENS = 4

_PROMPTS = (
    "What is the capital of France?",
    "Count from one to ten.",
    "Write a Python function that adds two numbers.",
    "Name the days of the week.",
    "Was ist die Hauptstadt von Deutschland?",
    "Explain in one sentence what rain is.",
)


class Canary(msgspec.Struct, frozen=True, kw_only=True):
    """Recorded answers of one variant: model, engine version, artifact and KV format must be the same to compare."""

    subject_key: str
    traces: tuple[Trace, ...]
    recorded_at: float


class CanaryMiss(msgspec.Struct, frozen=True):
    """An item on which a replica is not what was proven."""

    item_id: str
    position: int
    reason: str


class CanaryOutcome(msgspec.Struct, frozen=True):
    """Whether a replica is what was proven."""

    is_sound: bool
    misses: tuple[CanaryMiss, ...]

    @property
    def reason(self) -> str:
        """One line for status."""
        if self.is_sound:
            return "canary: as recorded"
        first = self.misses[0]
        return f"canary: {first.item_id} differs at token {first.position}: {first.reason}"


def canary_items() -> tuple[Item, ...]:
    """The prompts; seconds on a small model."""
    return tuple(
        Item(id=f"canary-{number}", messages=(Turn("user", text),)) for number, text in enumerate(_PROMPTS, 1)
    )


async def record(scorer: Scorer, subject_key: str, now_s: float) -> Canary:
    """What a variant that passed its gate answers now."""
    traces = [await scorer.continue_greedily(item) for item in canary_items()]
    return Canary(subject_key=subject_key, traces=tuple(traces), recorded_at=now_s)


async def check(scorer: Scorer, canary: Canary) -> CanaryOutcome:
    """Ask the prompts again, one after the other, and stop at the first that differs."""
    misses: list[CanaryMiss] = []
    recorded = {trace.item_id: trace for trace in canary.traces}
    for item in canary_items():
        expected = recorded.get(item.id)
        if expected is None:
            continue
        steps = expected.steps[:_CHECKED_TOKENS]
        seen = await scorer.follow(item, tuple(step.token for step in steps))
        miss = compare_steps(item.id, steps, seen)
        if miss is not None:
            misses.append(miss)
        if len(misses) > _MOST_MISSES:
            break
    return CanaryOutcome(not misses, tuple(misses))


def compare_steps(item_id: str, expected: Sequence[Step], seen: Sequence[Step]) -> CanaryMiss | None:
    """The first position that rounding does not explain."""
    for position, (was, now) in enumerate(zip(expected, seen, strict=True)):
        before, after = was.top[was.token], now.top.get(was.token, -math.inf)
        if abs(before - after) > _TOLERANCE_NATS * max(1.0, -before):
            return CanaryMiss(
                item_id, position, f"log-probability {after:.2f} where {before:.2f} was recorded"
            )
        if now.favourite != was.favourite and now.top[now.favourite] - after > _TIE_NATS:
            return CanaryMiss(item_id, position, f"token {now.favourite} where {was.favourite} was recorded")
    return None
