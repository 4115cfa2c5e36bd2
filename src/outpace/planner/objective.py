"""What a plan must reach: traffic, latency bounds at a percentile, money."""

import math
from dataclasses import dataclass

from outpace.values.architecture import Architecture
from outpace.values.errors import InvalidInput

_FASTEST_ITL_MS = 0.05
# Tokens, and requests per second.
_MOST = 100_000_000
_PERCENTILES = (50, 90, 95, 99)
_MOST_SURE = 0.99


@dataclass(frozen=True)
class Objective:
    """Mean lengths in tokens, requests per second, bounds in ms (0: none) at a percentile, dollars per hour.

    `least_sure` is the least chance that the bounds hold; 0 takes the predicted latencies as they are.
    """

    isl: int
    osl: int
    rate_per_s: float
    ttft_ms: float = 0.0
    itl_ms: float = 0.0
    percentile: int = 95
    max_pusd_hour: int = 0
    least_sure: float = 0.0

    def check(self, shape: Architecture) -> None:
        """Refuse what contradicts itself or the model. Raises InvalidInput naming the option."""
        for name in ("isl", "osl", "rate_per_s"):
            if not 0 < getattr(self, name) < _MOST:
                raise InvalidInput(
                    name.removesuffix("_per_s"), f"must be positive and below {_MOST:,}; a plan needs traffic"
                )
        for name in ("ttft_ms", "itl_ms"):
            if not math.isfinite(getattr(self, name)):
                raise InvalidInput(name, "must be a number; leave it out for none")
        if self.ttft_ms < 0 or self.itl_ms < 0:
            raise InvalidInput(
                "ttft_ms" if self.ttft_ms < 0 else "itl_ms", "must be positive; leave it out for none"
            )
        if 0 < self.itl_ms < _FASTEST_ITL_MS:
            raise InvalidInput(
                "itl_ms", f"{self.itl_ms} ms is below what any device reaches; did you mean seconds?"
            )
        if self.percentile not in _PERCENTILES:
            raise InvalidInput("percentile", f"must be one of {', '.join(map(str, _PERCENTILES))}")
        if not 0 <= self.least_sure <= _MOST_SURE:
            raise InvalidInput("sure", f"must be 0 to {_MOST_SURE:.0%}; no prediction is surer than that")
        if self.least_sure and not (self.ttft_ms or self.itl_ms):
            raise InvalidInput("sure", "needs a bound to be sure of; give --ttft-ms or --itl-ms")
        if self.isl + self.osl > shape.context_tokens:
            raise InvalidInput(
                "isl",
                f"{self.isl} + {self.osl} tokens exceed the {shape.context_tokens} of {shape.name}'s context",
            )
