"""What a run of load showed: per request, and summed up."""

from collections import Counter
from collections.abc import Sequence
from statistics import median

import msgspec


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One request as its client saw it; seconds since the run began. `error` None: it was answered."""

    began_s: float
    # First piece of text; None when there was none.
    first_s: float | None = None
    ended_s: float
    # As the server reports them, not counted from pieces.
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    longest_gap_s: float = 0.0
    error: str | None = None
    text: str = ""

    @property
    def ttft_s(self) -> float | None:
        """Time to the first piece of text."""
        return None if self.first_s is None else self.first_s - self.began_s

    @property
    def itl_s(self) -> float | None:
        """Mean time between tokens after the first, by usage; None for answers of one token."""
        if self.first_s is None or self.output_tokens < 2:
            return None
        return (self.ended_s - self.first_s) / (self.output_tokens - 1)


class Quantiles(msgspec.Struct, frozen=True, kw_only=True):
    """Of one figure over all answered requests, in milliseconds."""

    p50: float
    p95: float
    p99: float
    mean: float
    worst: float


class LoadFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What a run showed. Rates are by reported usage; latencies are those of answered requests."""

    requests: int
    errors: int
    error_texts: dict[str, int]
    wall_s: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    output_tokens_per_s: float
    # Until the first user ran out of work: without the tail in which fewer are served.
    steady_output_tokens_per_s: float
    requests_per_s: float
    drafted_tokens: int
    accepted_tokens: int
    ttft_ms: Quantiles | None
    itl_ms: Quantiles | None
    total_ms: Quantiles | None
    longest_gap_ms: Quantiles | None


def quantiles_ms(seconds: Sequence[float]) -> Quantiles | None:
    """Quantiles of durations; None without any."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    return Quantiles(
        p50=_quantile_ms(ordered, 0.50),
        p95=_quantile_ms(ordered, 0.95),
        p99=_quantile_ms(ordered, 0.99),
        mean=1000 * sum(ordered) / len(ordered),
        worst=1000 * ordered[-1],
    )


def summed(samples: Sequence[Sample], wall_s: float, steady_until_s: float | None = None) -> LoadFigures:
    """The figures of a run of `wall_s` seconds."""
    good = [sample for sample in samples if sample.error is None]
    output = sum(sample.output_tokens for sample in good)
    until_s = wall_s if steady_until_s is None else steady_until_s
    return LoadFigures(
        requests=len(samples),
        errors=len(samples) - len(good),
        error_texts=dict(Counter(sample.error for sample in samples if sample.error is not None)),
        wall_s=wall_s,
        prompt_tokens=sum(sample.prompt_tokens for sample in good),
        cached_tokens=sum(sample.cached_tokens for sample in good),
        output_tokens=output,
        output_tokens_per_s=output / max(wall_s, 1e-9),
        steady_output_tokens_per_s=tokens_until(good, until_s) / max(until_s, 1e-9),
        requests_per_s=len(good) / max(wall_s, 1e-9),
        drafted_tokens=sum(sample.drafted_tokens for sample in good),
        accepted_tokens=sum(sample.accepted_tokens for sample in good),
        ttft_ms=quantiles_ms([sample.ttft_s for sample in good if sample.ttft_s is not None]),
        itl_ms=quantiles_ms([sample.itl_s for sample in good if sample.itl_s is not None]),
        total_ms=quantiles_ms([sample.ended_s - sample.began_s for sample in good]),
        longest_gap_ms=quantiles_ms([sample.longest_gap_s for sample in good if sample.first_s is not None]),
    )


def tokens_until(samples: Sequence[Sample], until_s: float) -> float:
    """Output tokens up to a moment; a request that runs across it counts by its share of time since its first token."""
    return sum(_tokens_until(sample, until_s) for sample in samples)


def middle(runs: Sequence[LoadFigures]) -> LoadFigures:
    """The run with the median rate; of an even number the slower of the two in the middle."""
    ordered = sorted(runs, key=lambda run: run.output_tokens_per_s)
    return ordered[(len(ordered) - 1) // 2]


def gain(one: Sequence[LoadFigures], other: Sequence[LoadFigures]) -> float:
    """How many times faster `one` is than `other`: the median of the ratios of runs that were neighbours in time.

    Unequal numbers of runs were not asked in turns: then it is the ratio of the middle ones. Both were asked the same,
    so the tails of the runs are alike; with few requests per user the time without them would be no more than the
    prefill.
    """
    pairs = [*zip(one, other, strict=True)] if len(one) == len(other) else [(middle(one), middle(other))]
    return median(a.output_tokens_per_s / max(b.output_tokens_per_s, 1e-9) for a, b in pairs)


def _tokens_until(sample: Sample, until_s: float) -> float:
    if sample.ended_s <= until_s:
        return sample.output_tokens
    if sample.first_s is None or sample.first_s >= until_s:
        return 0.0
    return sample.output_tokens * (until_s - sample.first_s) / (sample.ended_s - sample.first_s)


def _quantile_ms(ordered: Sequence[float], q: float) -> float:
    return 1000 * ordered[min(len(ordered) - 1, int(q * len(ordered)))]
