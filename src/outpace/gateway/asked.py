"""What a caller asks of the service itself, in headers: by when, how urgent, under which label."""

import math
from collections.abc import Iterable

import msgspec

from outpace.scheduling.tickets import Priority
from outpace.values.errors import InvalidInput

_LONGEST_LABEL = 128
_LONGEST_DEADLINE_MS = 86_400_000.0
# A client that stops waiting after T gets its refusal a tenth of T before, at most a second.
_MARGIN = 0.1
_MOST_MARGIN_S = 1.0
_NAMES = frozenset(
    {
        b"x-outpace-deadline-ms",
        b"x-outpace-priority",
        b"x-stainless-read-timeout",
        b"x-stainless-timeout",
        b"x-client-request-id",
        b"x-session-affinity",
    }
)


class Asked(msgspec.Struct, frozen=True):
    """The headers that matter to the gateway, parsed."""

    # Seconds from the request's arrival; None: the caller did not say.
    deadline_s: float | None = None
    priority: Priority = "interactive"
    # The client's own request id: a label on the receipt, never a key to anything.
    label: str | None = None
    session: bytes | None = None


_NOTHING = Asked()


def asked(headers: Iterable[tuple[bytes, bytes]]) -> Asked:
    """What the headers ask for. Raises InvalidInput for our own headers when they are wrong."""
    found = {name: value for name, value in headers if name in _NAMES}
    if not found:
        return _NOTHING
    label = found.get(b"x-client-request-id")
    return Asked(
        deadline_s=_deadline_s(found),
        priority=_priority(found.get(b"x-outpace-priority")),
        label=None if label is None else label[:_LONGEST_LABEL].decode("ascii", "replace"),
        session=found.get(b"x-session-affinity"),
    )


def _deadline_s(found: dict[bytes, bytes]) -> float | None:
    own = found.get(b"x-outpace-deadline-ms")
    if own is not None:
        return _own_deadline_s(own)
    for name in (b"x-stainless-read-timeout", b"x-stainless-timeout"):
        timeout_s = _number(found.get(name, b""))
        if timeout_s is not None and timeout_s > 0:
            return timeout_s - min(_MOST_MARGIN_S, timeout_s * _MARGIN)
    return None


def _own_deadline_s(value: bytes) -> float:
    name = "x-outpace-deadline-ms"
    deadline_ms = _number(value)
    if deadline_ms is None:
        raise InvalidInput(name, "must be a number of milliseconds from now, such as 2000")
    if deadline_ms <= 0:
        raise InvalidInput(
            name, "has passed already; give the milliseconds from now that the answer may take"
        )
    if deadline_ms > _LONGEST_DEADLINE_MS:
        raise InvalidInput(
            name,
            f"must be at most {_LONGEST_DEADLINE_MS:.0f} (a day): milliseconds from now, not a point in time",
        )
    return deadline_ms / 1000


def _priority(value: bytes | None) -> Priority:
    if value is None or value == b"interactive":
        return "interactive"
    if value == b"batch":
        return "batch"
    raise InvalidInput("x-outpace-priority", "must be `interactive` or `batch`")


def _number(value: bytes) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
