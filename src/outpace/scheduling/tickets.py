"""A request as the scheduler sees it."""

from typing import Literal

Priority = Literal["interactive", "batch"]


class Ticket:
    """Who asks, for how much, by when. Times are those of the monotonic clock."""

    __slots__ = (
        "affinity",
        "arrived_s",
        "deadline_s",
        "excluded",
        "held_s",
        "key",
        "output_tokens",
        "priority",
        "prompt_tokens",
        "tells_first_token",
        "unable",
    )

    def __init__(
        self,
        key: str,
        *,
        arrived_s: float,
        deadline_s: float,
        priority: Priority = "interactive",
        prompt_tokens: int = 0,
        output_tokens: int = 0,
        affinity: bytes | None = None,
        tells_first_token: bool = True,
    ) -> None:
        self.key = key
        self.arrived_s = arrived_s
        # By then it must have its place; a later answer helps nobody.
        self.deadline_s = deadline_s
        self.priority: Priority = priority
        # Expected, until the engine has counted.
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        # What its prompt begins with, hashed; None: nothing to gain.
        self.affinity = affinity
        # Variants that cannot serve it.
        self.unable: frozenset[str] = frozenset()
        # A stream does; another answer is seen only when it is whole.
        self.tells_first_token = tells_first_token
        # Replicas that failed it already: only if there is no other.
        self.excluded: frozenset[str] = frozenset()
        # Seconds it waited because nothing was ready.
        self.held_s = 0.0

    @property
    def tokens(self) -> int:
        """Prompt and output together."""
        return self.prompt_tokens + self.output_tokens
