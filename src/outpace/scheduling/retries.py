"""How many second tries a deployment affords: a share of its requests, so that failing replicas are not stormed."""

# Extra calls per request, and how many may be saved up.
RETRY_SHARE = 0.1
MOST_SAVED = 10.0


class RetryBudget:
    """Fills with requests, empties with retries."""

    def __init__(self) -> None:
        self._saved = MOST_SAVED

    def request(self) -> None:
        """A request was taken on."""
        self._saved = min(MOST_SAVED, self._saved + RETRY_SHARE)

    def take(self) -> bool:
        """Whether one more retry is affordable; it is then spent."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True
