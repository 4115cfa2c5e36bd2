"""Ejection of bad replicas, and the way back: one request at a time probes. Pure; times from the monotonic clock.

Only broken connections count: what an engine refuses or reports is an answer, and a caller must not be able to eject a
replica with requests that it answers with an error.
"""

# Answers in a row that broke off; one that could not even begin counts for all of them.
_BREAKS_TO_EJECT = 3
_FIRST_REST_S = 0.5
_LONGEST_REST_S = 30.0


class Health:
    """What is known of one replica's trouble."""

    __slots__ = ("_breaks", "_ejections", "is_probed", "rests_until_s")

    def __init__(self) -> None:
        self._breaks = 0
        self._ejections = 0
        # It gets nothing before; afterwards one request at a time, until one is answered.
        self.rests_until_s = 0.0
        self.is_probed = False

    @property
    def is_ejected(self) -> bool:
        """It has to prove itself."""
        return self._ejections > 0

    def is_usable(self, now_s: float) -> bool:
        """One more request may be sent there."""
        return not self._ejections or (now_s >= self.rests_until_s and not self.is_probed)

    def sent(self) -> None:
        """A request goes there."""
        self.is_probed = self.is_ejected

    def answered(self) -> None:
        """A request was answered, whatever the answer."""
        self._breaks = self._ejections = 0
        self.is_probed = False

    def left(self) -> None:
        """A request ended without telling anything, as when its client went."""
        self.is_probed = False

    def broke(self, now_s: float, *, at_connect: bool) -> None:
        """A connection broke, or could not be made."""
        self._breaks += _BREAKS_TO_EJECT if at_connect else 1
        was_resting, self.is_probed = now_s < self.rests_until_s, False
        if self._breaks < _BREAKS_TO_EJECT or was_resting:
            return
        self.rests_until_s = now_s + min(_LONGEST_REST_S, _FIRST_REST_S * 2**self._ejections)
        self._ejections += 1
