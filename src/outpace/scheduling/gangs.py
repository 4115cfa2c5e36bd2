"""Static batching, for comparison only: requests start together and the next gang waits for the last of them. Pure."""

# How long an incomplete gang waits for more.
GANG_WAIT_S = 0.05
# Where the replica has no limit of its own.
_GANG_GUESS = 8


def gang_size(in_flight: int, waiting: int, oldest_wait_s: float, limit: int | None) -> int:
    """How many of those who wait start now as one gang; 0: none, the last gang runs or more are waited for."""
    most = limit or _GANG_GUESS
    if in_flight or (waiting < most and oldest_wait_s < GANG_WAIT_S):
        return 0
    return min(most, waiting)
