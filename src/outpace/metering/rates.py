"""Requests and tokens per minute as token buckets, each held in one integer.

A bucket is the instant (ns, monotonic) at which it will be full again: one word, so that no kill can tear it
and a change of the limit keeps the share in use. This is the generic cell rate algorithm of ITU-T I.371
with a burst of one minute's allowance. Rounding costs the limit less than 1 ns per request.
"""

from typing import NamedTuple

WINDOW_NS = 60 * 10**9
_NS_PER_MS = 10**6
_NS_PER_S = 10**9


class RateState(NamedTuple):
    """What a key may still do this minute, as shown in the `x-ratelimit-*` headers; None: no such limit."""

    # `requests` or `tokens` when the request was turned away, else None.
    hit: str | None = None
    # Seconds until the same request would pass; None when it passed, or can never pass.
    retry_after_s: float | None = None
    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests_s: float | None = None
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens_s: float | None = None

    @property
    def is_allowed(self) -> bool:
        """Whether the request may go on."""
        return self.hit is None


UNLIMITED = RateState()


class Decision(NamedTuple):
    """What a request was told, and the buckets after it."""

    state: RateState
    requests_full_at_ns: int
    tokens_full_at_ns: int


def decide(
    requests_full_at_ns: int,
    tokens_full_at_ns: int,
    rpm: int | None,
    tpm: int | None,
    tokens: int,
    now_ns: int,
) -> Decision:
    """Whether one request of `tokens` passes; takes from both buckets or, when refused, from neither."""
    requests_used = used_ns(requests_full_at_ns, now_ns)
    tokens_used = used_ns(tokens_full_at_ns, now_ns)
    requests_after = requests_used if rpm is None else requests_used + cost_ns(1, rpm)
    tokens_after = tokens_used if tpm is None else tokens_used + cost_ns(tokens, tpm)
    hit = retry_after_s = None
    if requests_after > WINDOW_NS or tokens_after > WINDOW_NS:
        hit, retry_after_s = _refusal(requests_used, tokens_used, rpm, tpm, tokens)
        requests_after, tokens_after = requests_used, tokens_used
    state = RateState(
        hit,
        retry_after_s,
        rpm,
        None if rpm is None else remaining(requests_after, rpm),
        None if rpm is None else requests_after / _NS_PER_S,
        tpm,
        None if tpm is None else remaining(tokens_after, tpm),
        None if tpm is None else tokens_after / _NS_PER_S,
    )
    return Decision(state, now_ns + requests_after, now_ns + tokens_after)


def _refusal(
    requests_used: int, tokens_used: int, rpm: int | None, tpm: int | None, tokens: int
) -> tuple[str, float | None]:
    """The limit that was hit, and after how many seconds the request would pass."""
    requests_wait_s = 0.0 if rpm is None else wait_s(requests_used, 1, rpm)
    tokens_wait_s = 0.0 if tpm is None else wait_s(tokens_used, tokens, tpm)
    if requests_wait_s is None:
        return "requests", None
    if tokens_wait_s is None:
        return "tokens", None
    hit = "requests" if requests_wait_s > 0 else "tokens"
    return hit, max(requests_wait_s, tokens_wait_s)


def cost_ns(amount: int, limit: int) -> int:
    """How far `amount` pushes back the instant at which a bucket of `limit` per minute is full."""
    return amount * WINDOW_NS // limit if limit > 0 else WINDOW_NS + 1


def used_ns(full_at_ns: int, now_ns: int) -> int:
    """The part in use; never negative, never more than a minute, whatever the clock did."""
    used = full_at_ns - now_ns
    if used <= 0:
        return 0
    return used if used < WINDOW_NS else WINDOW_NS


def remaining(used: int, limit: int) -> int:
    """Units that fit into a bucket with `used` ns in use."""
    return (WINDOW_NS - used) * limit // WINDOW_NS


def wait_s(used: int, amount: int, limit: int) -> float | None:
    """Seconds (whole ms, rounded up) until `amount` fits; 0 when it fits now, None when it never will."""
    if amount > limit:
        return None
    missing_ns = used + cost_ns(amount, limit) - WINDOW_NS
    return max(-(-missing_ns // _NS_PER_MS), 0) / 1000


def duration_text(duration_s: float) -> str:
    """A duration as rate-limit headers write it: `12ms`, `1s`, `6m0s`; rounded up to whole ms below 1 s."""
    duration_ms = -(-int(duration_s * 10**6) // 1000)
    if duration_ms < 1000:
        return f"{duration_ms}ms"
    minutes, seconds = divmod(-(-duration_ms // 1000), 60)
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
