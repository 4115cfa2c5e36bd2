"""`python -m outpace.lab.profile_one PROFILES VARIANT`: measure one variant, a JSON object, and keep its profile.

A process of its own, so that nothing it does can slow or end control. One line of JSON per step on stdout.
"""

import asyncio
import os
import sys
from pathlib import Path

import msgspec

from outpace.engines.registry import engine
from outpace.hardware.busy import busy_share
from outpace.hardware.machine import detect, machine_name
from outpace.lab.profiled import Variant, conditions_of, is_partial, is_to_repeat
from outpace.lab.profiles import ProfileStore, alone
from outpace.lab.profiling import Say, go_on, profile, sweep_of
from outpace.lab.replica import die_with_parent
from outpace.scheduling.profiles import MOST_OTHERS_SHARE
from outpace.values.clock import Clock, SystemClock
from outpace.values.errors import InvalidInput, OutpaceError
from outpace.values.profile import Profile

# A request that comes meanwhile goes first; control then ends this.
_NICENESS = 5
# How busy the machine is with other things is looked at before and after the sweep, for so long.
_LOOK_S = 1.0
# The platform's own sweeps wait so long for other programs to end.
_PATIENCE_S = 60.0


async def profile_one(
    folder: Path,
    variant: Variant,
    say: Say = lambda what, share: None,
    *,
    is_afresh: bool = True,
    patience_s: float = 0.0,
) -> Profile:
    """The profile of a variant on this machine, kept; not `is_afresh`: one that is partial is gone on with, but for
    one that was measured beside other programs.

    Waits at most `patience_s` for other programs to end. Raises EngineFailed, EngineTimedOut, InvalidInput.
    """
    if not variant.is_measurable:
        raise InvalidInput(
            "deployment", f"{variant.model} on {variant.engine} has nothing that a sweep measures"
        )
    say("until no other sweep runs", 0.0)
    with alone(folder):
        machine = detect()
        conditions = conditions_of(variant, machine_name(machine))
        weights = Path(variant.artifact_path)
        sweep = sweep_of(conditions, weights, machine.available_bytes, variant.artifacts_dir)
        store = ProfileStore(folder)
        known = None if is_afresh else store.find(conditions).profile
        clock = SystemClock()
        before = await _others_share(clock, patience_s, say)
        if known is not None and is_partial(known) and not is_to_repeat(known):
            made = await go_on(known, sweep, engine(variant.engine), clock, say)
            before = _larger(before, known.others_share)
        else:
            made = await profile(sweep, engine(variant.engine), clock, say)
            tries = known.tries + 1 if known is not None else 1
            made = msgspec.structs.replace(made, tries=tries)
        after = await busy_share(clock, _LOOK_S)
        made = msgspec.structs.replace(made, others_share=_larger(before, after))
        store.keep(made)
    return made


async def _others_share(clock: Clock, patience_s: float, say: Say) -> float | None:
    """What other programs take of the processors, when they have ended or patience has."""
    until_s = clock.monotonic_s() + patience_s
    while True:
        share = await busy_share(clock, _LOOK_S)
        if share is None or share <= MOST_OTHERS_SHARE or clock.monotonic_s() >= until_s:
            return share
        say("until the machine is quiet", 0.0)


def _larger(*shares: float | None) -> float | None:
    return max((share for share in shares if share is not None), default=None)


def main() -> None:
    """Measure, or say in one line why not."""
    folder, variant = Path(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=Variant)
    die_with_parent()
    os.nice(_NICENESS)
    try:
        say: Say = lambda what, share: _tell("measuring", what)  # noqa: E731
        asyncio.run(profile_one(folder, variant, say, is_afresh=False, patience_s=_PATIENCE_S))
    except (OutpaceError, OSError) as error:
        _tell("profile_failed", str(error))
        raise SystemExit(1) from None


def _tell(event: str, what: str) -> None:
    print(msgspec.json.encode({"event": event, "what": what}).decode(), flush=True)


if __name__ == "__main__":
    main()
