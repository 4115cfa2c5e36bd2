"""A reference is asked once: recorded answers serve the next candidate."""

from pathlib import Path

from tests.precision.small import FakeScorer, item_set

from outpace.lab.trace_cache import RecordingScorer, recording_path
from outpace.precision.items import Item
from outpace.precision.traces import Trace


class CountingScorer(FakeScorer):
    """Counts its continuations."""

    asked = 0
    kv_bytes_per_token: float | None = None

    async def continue_greedily(self, item: Item, *, at_length: bool = False) -> Trace:
        self.asked += 1
        return await super().continue_greedily(item, at_length=at_length)

    async def prompt_tokens(self, item: Item) -> tuple[int, ...]:
        self.asked += 1
        return (1, 2)


async def test_recorded_answers_are_not_asked_again(tmp_path: Path) -> None:
    path = recording_path(tmp_path, "model", "sha", "items")
    scorer, item = CountingScorer(-0.1, -2.0), item_set().items[0]
    first = RecordingScorer(scorer, path)
    said = await first.continue_greedily(item)
    await first.answer(item)
    first.keep()
    again = RecordingScorer(scorer, path)
    assert await again.continue_greedily(item) == said
    assert await again.answer(item) == said.text
    assert scorer.asked == 2
    assert await again.prompt_tokens(item) == await again.prompt_tokens(item) == (1, 2)
    assert scorer.asked == 3


async def test_a_broken_recording_is_asked_anew(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    path.write_bytes(b"\xc1")
    scorer = CountingScorer(-0.1, -2.0)
    await RecordingScorer(scorer, path).continue_greedily(item_set().items[0])
    assert scorer.asked == 1


def test_another_reference_has_another_recording(tmp_path: Path) -> None:
    assert recording_path(tmp_path, "a", "b") != recording_path(tmp_path, "a", "c")
