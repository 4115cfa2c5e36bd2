"""When to start again what failed: exponential back-off, then a circuit breaker. Pure."""

import msgspec


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Waits between starts; `retry_open_s` None leaves an open breaker to a person."""

    first_wait_s: float = 0.2
    factor: float = 2.0
    longest_wait_s: float = 10.0
    # A life that lasted this long was no failed start: counting begins anew.
    healthy_after_s: float = 30.0
    opens_after: int = 5
    retry_open_s: float | None = None


class Failures(msgspec.Struct, frozen=True):
    """Failed lives in a row and when the last one ended, on the monotonic clock."""

    in_a_row: int = 0
    last_s: float = 0.0


NO_FAILURES = Failures()


def after_failure(failures: Failures, policy: RestartPolicy, lived_s: float, now_s: float) -> Failures:
    """The count after a life of `lived_s` that ended by itself at `now_s`."""
    before = 0 if lived_s >= policy.healthy_after_s else failures.in_a_row
    return Failures(in_a_row=before + 1, last_s=now_s)


def is_open(failures: Failures, policy: RestartPolicy) -> bool:
    """Too many failures in a row: the breaker is open."""
    return failures.in_a_row >= policy.opens_after


def next_start_s(failures: Failures, policy: RestartPolicy) -> float | None:
    """Monotonic second from which the next start is allowed; None: not without a person."""
    if failures.in_a_row == 0:
        return 0.0
    if is_open(failures, policy):
        return None if policy.retry_open_s is None else failures.last_s + policy.retry_open_s
    # The exponent is bounded by `opens_after`, so the power cannot overflow.
    wait_s = policy.first_wait_s * policy.factor ** (failures.in_a_row - 1)
    return failures.last_s + min(wait_s, policy.longest_wait_s)
