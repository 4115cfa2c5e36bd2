"""What live answers say about a profile: they refine its speeds, and stop a way of guessing that went wrong."""

from collections.abc import Callable

import msgspec
import structlog

from outpace.control.served import Served
from outpace.scheduling.autoscale import Pressure
from outpace.scheduling.profiles import refined
from outpace.scheduling.speculation import kill_reason
from outpace.values.clock import Clock
from outpace.values.errors import OutpaceError
from outpace.values.profile import Profile
from outpace.values.records import Reserved, Settled

_LOG = structlog.get_logger()
# Answers between two writes of a profile: each write makes a new snapshot.
KEEP_EVERY = 64
# Shorter answers say little of the speed.
_LEAST_TOKENS = 8
_MOST_READING = 0.7


class _Seen(msgspec.Struct):
    """Since the profile of one version of a deployment was last read."""

    profile: Profile
    answers: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0


class LiveAnswers:
    """Learns from every request that ended."""

    def __init__(
        self,
        served: Callable[[str, str, float], Served | None],
        pressure: Callable[[str, float], Pressure],
        keep: Callable[[Profile], None],
        clock: Clock,
    ) -> None:
        self._served = served
        self._pressure = pressure
        self._keep = keep
        self._clock = clock
        self._seen: dict[tuple[str, str], _Seen] = {}

    def learn(self, reserved: Reserved, settled: Settled) -> None:
        """Take in one request that ended."""
        began_at_s = settled.at_s - settled.duration_s
        served = self._served(reserved.deployment, reserved.engine, began_at_s)
        profile = served.resolved.profile if served is not None and served.resolved is not None else None
        rate = answer_rate(settled, profile) if profile is not None else None
        if served is None or profile is None or rate is None:
            return
        key = (served.id, served.digest)
        seen = self._seen.get(key)
        if seen is None or seen.profile.measured_at != profile.measured_at:
            # What other versions of the deployment did is no longer of use.
            self._seen = {known: each for known, each in self._seen.items() if known[0] != key[0]}
            seen = self._seen[key] = _Seen(profile)
        if settled.usage.drafted_tokens == 0:
            # The profile's speeds are those without guesses.
            users = max(1, self._pressure(reserved.deployment, self._clock.monotonic_s()).running)
            seen.profile = refined(seen.profile, users, users * rate)
        self._count(seen, served, settled)

    def _count(self, seen: _Seen, served: Served, settled: Settled) -> None:
        seen.answers += 1
        seen.drafted_tokens += settled.usage.drafted_tokens
        seen.accepted_tokens += settled.usage.accepted_tokens
        stopped = self._stopped(seen, served)
        if stopped is not None:
            seen.profile = stopped
        if stopped is not None or seen.answers % KEEP_EVERY == 0:
            self._write(seen.profile)

    def _stopped(self, seen: _Seen, served: Served) -> Profile | None:
        """The profile without the method that `auto` had taken, when its live guesses are mostly wrong."""
        method = served.resolved.speculation if served.resolved is not None else None
        if method is None or served.wanted.spec.speculation != "auto" or method in seen.profile.stopped:
            return None
        points = seen.profile.speculation
        reason = kill_reason(points, method, seen.drafted_tokens, seen.accepted_tokens)
        if reason is None:
            return None
        _LOG.warning("speculation_stopped", deployment=served.wanted.spec.name, method=method, reason=reason)
        return msgspec.structs.replace(seen.profile, stopped={**seen.profile.stopped, method: reason})

    def _write(self, profile: Profile) -> None:
        try:
            self._keep(profile)
        except (OutpaceError, OSError) as error:
            _LOG.warning("profile_not_kept", reason=str(error))


def answer_rate(settled: Settled, profile: Profile) -> float | None:
    """Tokens per second of one answer at its replica, as if its prompt were like a sweep's; None: not to be told."""
    tokens = settled.usage.completion_tokens
    if settled.outcome != "completed" or settled.num_choices != 1 or settled.ttft_s is None:
        return None
    if settled.serving is not None and settled.serving.moves:
        # Of two replicas, perhaps of two variants.
        return None
    spent_s = settled.duration_s - (settled.queue_s or 0.0)
    if tokens < _LEAST_TOKENS or spent_s <= 0:
        return None
    more_s = _more_reading_s(settled, profile)
    if more_s > _MOST_READING * spent_s:
        # Nearly all of its time was the prompt's.
        return None
    return tokens / (spent_s - more_s)


def _more_reading_s(settled: Settled, profile: Profile) -> float:
    """Seconds that this prompt took beyond one like the sweep's."""
    if not profile.read_per_output or not profile.prefill_tokens_per_s:
        return 0.0
    usage = settled.usage
    usual_tokens = profile.read_per_output * usage.completion_tokens
    return (usage.prompt_tokens - usage.cached_tokens - usual_tokens) / profile.prefill_tokens_per_s
