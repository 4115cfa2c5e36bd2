"""How many prompts a replica reads at once: so many that its cores are full, and no more. Pure: time is an argument.

Reading two long prompts side by side takes as long as one after the other, only that both begin late, and that whoever
comes next waits for all of them. So a prompt waits in the line, where order is fair, while others are being read.
"""

from collections import Counter

from outpace.scheduling.tickets import Ticket

# Below this many tokens at once engines read faster together (the micro-batch of llama.cpp).
_LEAST_TOKENS = 512
# A device that reads faster may have this much of it in hand.
_READ_AHEAD_S = 0.5
# An answer that is not streamed does not tell its first token: its prompt counts for so much longer than expected.
_PATIENCE = 1.5


def budget_tokens(prefill_tokens_per_s: float | None, num_workers: int = 1) -> int | None:
    """Tokens of prompts that one worker may have read at once by a replica; None: any number, nothing was measured."""
    if not prefill_tokens_per_s:
        return None
    return int(max(_LEAST_TOKENS, _READ_AHEAD_S * prefill_tokens_per_s)) // num_workers


class Prefills:
    """The prompts that one replica is reading for this worker."""

    def __init__(self) -> None:
        self.budget_tokens: int | None = None
        self.tokens_per_s: float | None = None
        # When each was sent.
        self._reading: dict[Ticket, float] = {}

    def begin(self, ticket: Ticket, now_s: float) -> None:
        """Its prompt was sent."""
        if self.budget_tokens is not None:
            self._reading[ticket] = now_s

    def end(self, ticket: Ticket) -> bool:
        """Its first token came, or it ended; False when nothing has changed by that."""
        return self._reading.pop(ticket, None) is not None

    def has_room(self, ticket: Ticket, now_s: float) -> bool:
        """Its prompt may be read now: beside the others, or alone however long it is.

        The key that reads most does not hold back one that reads nothing: engines take its prompt before more of the
        other's, and behind a long one they would learn of it only at the end.
        """
        if self.budget_tokens is None:
            return True
        reading = Counter[str]()
        for each in self._reading:
            if self._wait_s(each, now_s) is not None:
                reading[each.key] += each.prompt_tokens
        beside = (
            reading.total() if ticket.key in reading else reading.total() - max(reading.values(), default=0)
        )
        return not reading or beside + ticket.prompt_tokens <= self.budget_tokens

    def wait_s(self, now_s: float) -> float | None:
        """Until a prompt that nobody will report counts as read; None when each will be reported."""
        waits = [self._wait_s(ticket, now_s) for ticket in self._reading if not ticket.tells_first_token]
        return min((wait for wait in waits if wait is not None), default=None)

    def _wait_s(self, ticket: Ticket, now_s: float) -> float | None:
        """How long it will go on counting, at most; None when it does not count any more."""
        if ticket.tells_first_token or not self.tokens_per_s:
            return float("inf")
        expected_s = _PATIENCE * sum(each.prompt_tokens for each in self._reading) / self.tokens_per_s
        left_s = self._reading[ticket] + expected_s - now_s
        return left_s if left_s > 0 else None
