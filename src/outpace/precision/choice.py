"""Which precision a deployment gets: the fastest one that is proven good enough here. A pure function."""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from outpace.precision.verdict import Outcome, Verdict
from outpace.values.errors import InvalidInput

Basis = Literal["measured", "predicted"]
# A faster format must be worth a switch: within this it is noise, and the smaller one is taken.
_WORTH_SWITCHING = 1.05


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """A format that the engine could run, its speed, and what is proven of it."""

    precision: str
    kv_precision: str = "f16"
    # Of eight users together, per second of processor time: what else runs does not move it.
    output_tokens_per_s: float
    speed_basis: Basis
    weights_bytes: int
    # None: not gated yet.
    verdict: Verdict | None = None
    is_reference: bool = False
    # It is the artifact as the publisher shipped it.
    is_shipped: bool = False

    @property
    def title(self) -> str:
        """For people: the precision, and the KV cache's where it is not 16 bit."""
        return (
            self.precision if self.kv_precision == "f16" else f"{self.precision} with KV {self.kv_precision}"
        )

    @property
    def outcome(self) -> Outcome | None:
        """Its verdict's outcome; None without a verdict."""
        return self.verdict.outcome if self.verdict else None


class Rejected(msgspec.Struct, frozen=True):
    """A format that was not taken, and why."""

    precision: str
    kv_precision: str
    reason: str


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What to serve now, why, what to gate next, and why the others lost."""

    precision: str
    kv_precision: str
    reason: str
    # A pass backs it, or it is the reference itself.
    is_proven: bool
    # Faster formats, or smaller ones as fast, without a verdict, fastest first: gate these in the background.
    to_gate: tuple[Option, ...]
    rejected: tuple[Rejected, ...]
    verdict: Verdict | None = None


def choose(options: Sequence[Option]) -> Choice:
    """The fastest option with a passing verdict, of near ties the smallest; until there is one, what was shipped.

    Raises InvalidInput when there is no reference among the options.
    """
    safe = _safe(options)
    proven = [option for option in options if option.outcome == "pass"]
    best = _best(safe, proven)
    better = [
        option
        for option in options
        if option.verdict is None
        and not option.is_reference
        and (_is_faster(option, best) or (_is_faster(option, safe) and _is_smaller_as_fast(option, best)))
    ]
    return Choice(
        precision=best.precision,
        kv_precision=best.kv_precision,
        reason=_reason(best, safe, better),
        # What was shipped is what its publisher tested, until a gate here says otherwise.
        is_proven=best.outcome == "pass" or best.is_reference or (best.is_shipped and best.verdict is None),
        to_gate=tuple(sorted(better, key=lambda option: -option.output_tokens_per_s)),
        rejected=tuple(_rejected(option, best) for option in options if option is not best),
        verdict=best.verdict,
    )


def forced(precision: str, kv_precision: str, verdict: Verdict | None, *, allows_unproven: bool) -> Choice:
    """A format that the user asks for by name; without a passing verdict only when it is allowed explicitly.

    Raises InvalidInput with the remedy.
    """
    outcome = verdict.outcome if verdict else None
    if outcome != "pass" and not allows_unproven:
        seen = f"its verdict is {outcome}: {verdict.reason}" if verdict else "it has no verdict here"
        raise InvalidInput(
            "precision" if kv_precision == "f16" else "kv_precision",
            f"{precision} with KV {kv_precision} is not proven: {seen}. Run `outpace gate MODEL --precision "
            f"{precision} --kv-precision {kv_precision}`, say `auto`, or set allow_unproven: true",
        )
    reason = verdict.summary if verdict else "forced without a verdict"
    return Choice(
        precision=precision,
        kv_precision=kv_precision,
        reason=reason,
        is_proven=outcome == "pass",
        to_gate=(),
        rejected=(),
        verdict=verdict,
    )


def next_safer(options: Sequence[Option], failed: frozenset[tuple[str, str]]) -> Choice:
    """What to serve when the canary failed on some (precision, KV precision) pairs: the choice without them."""
    left = [option for option in options if (option.precision, option.kv_precision) not in failed]
    choice = choose(left)
    names = ", ".join(sorted(f"{precision}/{kv}" for precision, kv in failed))
    return msgspec.structs.replace(choice, reason=f"{choice.reason}; the canary failed on {names}")


def known_bad(verdicts: Sequence[Verdict]) -> Mapping[tuple[str, str], Verdict]:
    """Refused (precision, KV precision) pairs, so that nobody gates or serves them again."""
    return {
        (verdict.subject.precision, verdict.subject.kv_precision): verdict
        for verdict in verdicts
        if verdict.outcome == "refuse"
    }


def _best(safe: Option, proven: Sequence[Option]) -> Option:
    """What was shipped, unless others are clearly faster: then the smallest of those that are as fast as any."""
    faster = [option for option in proven if _is_faster(option, safe)]
    if not faster:
        return safe
    fastest = max(faster, key=lambda option: option.output_tokens_per_s)
    near = [option for option in faster if not _is_faster(fastest, option)]
    return min(near, key=lambda option: (option.weights_bytes, -option.output_tokens_per_s))


def _is_faster(option: Option, than: Option) -> bool:
    return option.output_tokens_per_s > than.output_tokens_per_s * _WORTH_SWITCHING


def _is_smaller_as_fast(option: Option, than: Option) -> bool:
    return option.weights_bytes < than.weights_bytes and not _is_faster(than, option)


def _safe(options: Sequence[Option]) -> Option:
    """The artifact as shipped where it is an option: it is what the publisher tested; else the reference."""
    for wanted in ("is_shipped", "is_reference"):
        for option in options:
            if getattr(option, wanted) and option.outcome != "refuse":
                return option
    raise InvalidInput("precision", "there is no reference to fall back to; pull the model again")


def _reason(best: Option, safe: Option, faster: Sequence[Option]) -> str:
    rate = best.output_tokens_per_s
    speed = f"{rate:.0f} tok/s per processor, {best.speed_basis}" if rate else "speeds are not measured yet"
    if best is not safe and best.verdict is not None:
        gain = best.output_tokens_per_s / safe.output_tokens_per_s
        return f"{best.verdict.summary}; {speed}, {gain:.2f}x {safe.precision}"
    if faster:
        names = ", ".join(option.title for option in faster)
        return f"served while {names} is being gated; {speed}"
    return f"no faster format has a passing verdict; {speed}"


def _rejected(option: Option, best: Option) -> Rejected:
    if option.outcome in ("refuse", "undecided") and option.verdict is not None:
        why = f"{option.outcome}: {option.verdict.reason}"
    elif not _is_faster(option, best):
        why = f"not faster: {option.output_tokens_per_s:.0f} tok/s per processor, {option.speed_basis}"
    else:
        why = "no verdict yet"
    return Rejected(option.precision, option.kv_precision, why)
