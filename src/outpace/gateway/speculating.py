"""Speculation request by request: the policy's decision for each call, and what the answers showed of it."""

import random
from collections.abc import Callable

from outpace.scheduling.speculation import Gate, Record, gate, noted
from outpace.values.snapshot import VariantEntry
from outpace.values.usage import Usage


class Speculating:
    """Records by deployment and variant, of one worker."""

    def __init__(self, dice: Callable[[], float] = random.random) -> None:
        self._dice = dice
        self._records: dict[tuple[str, str], Record] = {}

    def decide(self, deployment: str, variant: VariantEntry | None, users: int) -> Gate | None:
        """Whether a call speculates at this many requests at once; None: nothing to decide."""
        if variant is None or not variant.speculation:
            return None
        record = self._records.get((deployment, variant.id), Record())
        return gate(variant.speculation, users, record, self._dice())

    def note(self, deployment: str, variant: str, decided: Gate, usage: Usage, writing_s: float) -> None:
        """An answer was written in `writing_s` after its first token."""
        if writing_s <= 0 or usage.completion_tokens < 2:  # one token has no rate
            return
        place = deployment, variant
        self._records[place] = noted(
            self._records.get(place, Record()),
            decided.band,
            is_on=decided.speculate,
            tokens_per_s=(usage.completion_tokens - 1) / writing_s,
            drafted=usage.drafted_tokens,
            accepted=usage.accepted_tokens,
        )
