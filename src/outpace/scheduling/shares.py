"""Weighted fair shares by tokens: who has had the least is served next.

Virtual token counters (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024): every flow counts the
tokens that it was given, divided by its weight, and one that was idle starts level with those that were not. As long
as two flows have work waiting, what they were given differs by at most the largest request of each (tested).
"""

from collections.abc import Iterable, Mapping


class Shares:
    """Counters of named flows; a flow that has nothing to do and is not ahead of the rest is forgotten."""

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self._weights = weights or {}
        self._given: dict[str, float] = {}
        # The counter of the flow that was served last: where a flow begins that had nothing to do.
        self._level = 0.0

    def wake(self, flow: str) -> None:
        """The flow has work now, and had none before."""
        self._given[flow] = max(self._given.get(flow, 0.0), self._level)

    def ordered(self, flows: Iterable[str]) -> list[str]:
        """These flows with work, who was given the least first; equals as they came."""
        names = list(flows)
        if len(names) > 1:
            names.sort(key=lambda name: self._given.get(name, 0.0))
        return names

    def serve(self, flow: str, tokens: float) -> None:
        """The flow is next, with a request of this many tokens."""
        given = self._given.get(flow, self._level)
        self._level = max(self._level, given)
        self._given[flow] = given + tokens / self._weights.get(flow, 1.0)

    def correct(self, flow: str, tokens: float) -> None:
        """A request that was served took this many tokens more (or fewer) than was said."""
        if flow in self._given:
            self._given[flow] += tokens / self._weights.get(flow, 1.0)

    def sleep(self, flow: str) -> None:
        """The flow has no work any more; what it was given ahead of the others is remembered."""
        if self._given.get(flow, 0.0) <= self._level:
            self._given.pop(flow, None)

    def __len__(self) -> int:
        return len(self._given)
