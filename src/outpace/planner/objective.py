"""What a plan must reach: traffic, latency bounds at a percentile, money."""

from dataclasses import dataclass

from outpace.values.architecture import Architecture
from outpace.values.errors import InvalidInput

_FASTEST_ITL_MS = 0.05
_PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True)
class Objective:
    """Mean lengths in tokens, requests per second, bounds in ms (0: none) at a percentile, dollars per hour."""

    isl: int
    osl: int
    rate_per_s: float
    ttft_ms: float = 0.0
    itl_ms: float = 0.0
    percentile: int = 95
    max_pusd_hour: int = 0

    def check(self, shape: Architecture) -> None:
        """Refuse what contradicts itself or the model. Raises InvalidInput naming the option."""
        for name in ("isl", "osl", "rate_per_s"):
            if getattr(self, name) <= 0:
                raise InvalidInput(name.removesuffix("_per_s"), "must be positive; a plan needs traffic")
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
        if self.isl + self.osl > shape.context_tokens:
            raise InvalidInput(
                "isl",
                f"{self.isl} + {self.osl} tokens exceed the {shape.context_tokens} of {shape.name}'s context",
            )
