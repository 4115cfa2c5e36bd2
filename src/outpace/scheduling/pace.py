"""How long a request will wait: from the profile's figures, or from what was seen to come out. Pure."""

from typing import NamedTuple

# A minute of work weighs as much as everything before it.
_MEMORY_S = 60.0
# Less work than this tells nothing about speed: what still runs is not counted, so that first answers look slow.
_LEAST_SEEN_S = 4.0
_LEAST_DONE = 32
# For the first requests of a deployment.
_OUTPUT_GUESS_TOKENS = 256.0
_OUTPUT_MEMORY = 0.05


class Work(NamedTuple):
    """Tokens to be read and to be written."""

    prompt_tokens: float = 0.0
    output_tokens: float = 0.0

    def plus(self, other: "Work") -> "Work":
        """Both together."""
        return Work(self.prompt_tokens + other.prompt_tokens, self.output_tokens + other.output_tokens)

    def at_most(self, prompt_tokens: float, output_tokens: float) -> "Work":
        """No more than this of each."""
        return Work(min(self.prompt_tokens, prompt_tokens), min(self.output_tokens, output_tokens))


class Rates(NamedTuple):
    """Tokens/s of all replicas together; None: not known."""

    prefill_per_s: float | None
    output_per_s: float | None


def duration_s(work: Work, rates: Rates) -> float | None:
    """Time for this work, one after the other; None when the output rate is not known."""
    if not rates.output_per_s:
        return None
    reading_s = work.prompt_tokens / rates.prefill_per_s if rates.prefill_per_s else 0.0
    return reading_s + work.output_tokens / rates.output_per_s


def wait_s(ahead: Work, running: Work, num_running: int, rates: Rates) -> float | None:
    """Until a place is free behind `ahead`; None when the rates are not known.

    Of what runs, half is done on average, and the first of `num_running` ends after that share of the rest.
    """
    queued_s = duration_s(ahead, rates)
    if queued_s is None or not num_running:
        return queued_s
    first_s = duration_s(Work(0.0, running.output_tokens / 2 / num_running), rates)
    return queued_s + (first_s or 0.0)


class Pace:
    """Output seen so far: its rate while there was work, and the mean per request."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._busy_s = 0.0
        self._num_done = 0
        self._since_s: float | None = None
        self.mean_output_tokens = _OUTPUT_GUESS_TOKENS

    def starts(self, now_s: float) -> None:
        """There is work."""
        if self._since_s is None:
            self._since_s = now_s

    def done(self, now_s: float, output_tokens: int, *, is_idle: bool) -> None:
        """A request ended with this much output; `is_idle`: it was the last one."""
        if self._since_s is None:
            return
        spent_s = now_s - self._since_s
        self._since_s = None if is_idle else now_s
        kept = max(0.0, 1.0 - spent_s / _MEMORY_S)
        self._tokens = self._tokens * kept + output_tokens
        self._busy_s = self._busy_s * kept + spent_s
        self._num_done += 1
        if output_tokens:
            self.mean_output_tokens += _OUTPUT_MEMORY * (output_tokens - self.mean_output_tokens)

    @property
    def output_per_s(self) -> float | None:
        """Tokens/s while there was work; None before enough was seen."""
        if self._num_done < _LEAST_DONE or self._busy_s < _LEAST_SEEN_S:
            return None
        return self._tokens / self._busy_s
