"""Durations and moments as people write them: `90s`, `12h`, `30d`, `2026-11-23`."""

import re
from datetime import UTC, datetime

from outpace.values.clock import Clock
from outpace.values.errors import InvalidInput

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(\d{1,9})([smhdw])")


def parse_duration_s(text: str, option: str) -> int:
    """Seconds of `12h`. Raises InvalidInput naming `option`."""
    found = _DURATION.fullmatch(text.strip())
    if found is None or int(found[1]) == 0:
        raise InvalidInput(option, f"{text!r} is not a duration; write 90s, 15m, 12h, 30d or 2w")
    return int(found[1]) * _UNITS_S[found[2]]


def parse_since_s(text: str, option: str, clock: Clock) -> float:
    """The moment that lies a duration back, or that a date names, in seconds since the Unix epoch.

    A date without a zone is meant in the reader's. Raises InvalidInput naming `option`.
    """
    if _DURATION.fullmatch(text.strip()):
        return clock.wall_s() - parse_duration_s(text, option)
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InvalidInput(option, f"{text!r} is neither a duration (12h) nor a date (2026-11-23)") from None
    return moment.astimezone(UTC).timestamp()
