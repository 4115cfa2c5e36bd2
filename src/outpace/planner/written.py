"""Numbers as cases write them: text that is one, or a refusal by the column's name."""

import math

from outpace.values.errors import InvalidInput


def number(written: str) -> float | None:
    """A finite number, or None."""
    try:
        value = float(written)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def count(written: str, name: str) -> int:
    """A positive whole number, 0 when none is given. Raises InvalidInput naming the column."""
    if not written or written in ("nan", "0", "0.0"):
        return 0
    value = number(written)
    if value is None or value < 1 or value != int(value):
        raise InvalidInput(name, f"{written!r} is not a count")
    return int(value)


def positive(written: str, name: str) -> float:
    """A positive number. Raises InvalidInput naming the column."""
    value = number(written)
    if value is None or not 0 < value < float("inf"):
        raise InvalidInput(name, f"{written!r} is not a positive number")
    return value
