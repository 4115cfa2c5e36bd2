"""Whether a request that begins alone will stay alone: by those that did before. Pure but for what it remembers.

The first request of a burst looks like a lone one. Sent to the variant that is best for one, it crawls there beside the
others of its burst, which go to the other variant on the same cores.
"""

from collections import deque
from statistics import median_low

from outpace.scheduling.tickets import Ticket

# So many of the last lone requests count: two bursts are enough, and two that stay alone.
_REMEMBERED = 3
# Fewer say nothing.
_LEAST = 2


class Company:
    """The most requests that were served together with each of those that lately began alone."""

    def __init__(self) -> None:
        self._most: deque[int] = deque(maxlen=_REMEMBERED)
        self._lone: Ticket | None = None
        self._users = 1

    def expected(self) -> int:
        """Requests at once that a lone one will be one of: most of the late ones were of as many."""
        return median_low(self._most) if len(self._most) >= _LEAST else 1

    def began(self, ticket: Ticket) -> None:
        """A request goes to a replica while no other one is served."""
        self._lone, self._users = ticket, 1

    def seen(self, users: int) -> None:
        """So many are served or wait now."""
        self._users = max(self._users, users)

    def ended(self, ticket: Ticket) -> None:
        """A request has ended, whichever it is."""
        if ticket is self._lone:
            self._most.append(self._users)
            self._lone = None
