"""Places that are kept free, so that a flood of one key or of batch work leaves room for the next to come. Pure."""

# One place in this many is kept for keys that have nothing running.
_KEPT_FOR_OTHERS = 8
# One place in this many is kept for interactive requests.
_KEPT_FROM_BATCH = 4
# Who asked this lately is expected to ask again.
EXPECTED_FOR_S = 60.0


def may_take(places: int, free: int, *, yields_to_interactive: bool, yields_to_others: bool) -> bool:
    """Whether one of the `free` places of `places` may go to a request.

    It yields to interactive ones when it is batch work and there are such about, and to other keys when its own runs
    something already and another key is about. With a single place nothing can be kept.
    """
    if places < 2:
        return free > 0
    kept = 0
    if yields_to_interactive:
        kept = max(1, places // _KEPT_FROM_BATCH)
    elif yields_to_others:
        kept = max(1, places // _KEPT_FOR_OTHERS)
    return free > kept
