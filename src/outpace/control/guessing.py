"""Whether guessing tokens ahead fits in memory, for engines that hold the model a second time for it."""

from collections.abc import Callable

import msgspec

from outpace.control.parts import Resolved


def within_room(
    plain: Resolved, tuned: Resolved, bytes_of: Callable[[Resolved], int], room_bytes: int, *, is_auto: bool
) -> Resolved:
    """`tuned` with the bytes of a replica; as `plain` guesses where `auto` chose to and it does not fit.

    A method that was asked for by name stays, and is refused for its size where replicas are placed.
    """
    needed_bytes = bytes_of(tuned)
    if tuned.speculation is None or not is_auto or needed_bytes <= room_bytes:
        return msgspec.structs.replace(tuned, replica_bytes=needed_bytes)
    return msgspec.structs.replace(
        tuned,
        engine_settings=plain.engine_settings,
        variant=plain.variant,
        speculation=None,
        speculation_reason="off: there is no memory for what guessing needs",
        replica_bytes=bytes_of(plain),
    )
