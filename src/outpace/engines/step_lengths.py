"""How long a step is made where the engine prepares anew for one of another length. Pure."""

import msgspec

from outpace.engines.lookup import StepCosts


class Length(msgspec.Struct, frozen=True):
    """Of the last step on a graph: its tokens, and what steps of this length have cost in fillers."""

    num_tokens: int = 0
    filled_s: float = 0.0

    def next(self, wanted: int, costs: StepCosts) -> "Length":
        """Of a step that computes `wanted` tokens.

        When a sequence ends another one often comes soon, so the step stays as long until the fillers have cost what
        the change costs: never more than twice what the better of both would have (the rent-or-buy rule).
        """
        if wanted >= self.num_tokens:
            return Length(wanted)
        filler_s = costs.of(self.num_tokens, is_steady=True) - costs.of(wanted, is_steady=True)
        filled_s = self.filled_s + filler_s
        if filled_s > costs.of(wanted) - costs.of(wanted, is_steady=True):
            return Length(wanted)
        return Length(self.num_tokens, filled_s)
