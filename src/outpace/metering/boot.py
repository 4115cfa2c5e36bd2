"""The name of one life of a gateway worker: it owns a journal and a column of the counters."""

import os
import re
import secrets

from outpace.values.clock import Clock

# Fits an owner's place in the counters file; a dot would end it in a file name.
_BOOT_ID = re.compile(r"[A-Za-z0-9_-]{1,56}")


def new_boot_id(clock: Clock) -> str:
    """An id that no other life of any worker has; sorts by start time."""
    return f"{int(clock.wall_s()):011d}-{os.getpid()}-{secrets.token_hex(4)}"


def check_boot_id(boot_id: str) -> str:
    """The id, if it can name a file and a column. Raises ValueError otherwise."""
    if not _BOOT_ID.fullmatch(boot_id):
        raise ValueError(f"{boot_id!r} is no boot id: 1 to 56 letters, digits, - and _")
    return boot_id
