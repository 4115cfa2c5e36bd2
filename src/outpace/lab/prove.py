"""`python -m outpace.lab.prove ARTIFACTS MODEL`: make, measure and gate what `auto` may take, at the lowest priority.

A process of its own, so that nothing it does can slow or end control. One line of JSON per step on stdout.
"""

import asyncio
import os
import sys
from pathlib import Path

import msgspec

from outpace.engines import facts
from outpace.hardware.machine import detect
from outpace.lab.precisions import Precisions
from outpace.lab.replica import die_with_parent
from outpace.values.clock import SystemClock
from outpace.values.errors import OutpaceError

# Live traffic comes first: this gets what nobody else wants.
_NICENESS = 19


def main() -> None:
    """Prove, or say in one line why not."""
    artifacts, model = Path(sys.argv[1]), sys.argv[2]
    die_with_parent()
    os.nice(_NICENESS)
    precisions = Precisions(artifacts, detect(), SystemClock())
    try:
        asyncio.run(_prove(precisions, model))
    except (OutpaceError, OSError) as error:
        _tell("prove_failed", str(error))
        raise SystemExit(1) from None


async def _prove(precisions: Precisions, model: str) -> None:
    """llama.cpp first, whose reference the others are held against; then each other engine that is installed."""
    chosen = await precisions.prove(model, _proving)
    _tell("proved", f"{chosen.choice.precision}: {chosen.choice.reason}")
    for engine in facts.GATED_KV:
        if facts.engine_version(engine) is None:
            continue
        verdict = await precisions.prove_on(engine, model, _proving)
        if verdict is not None:
            _tell("proved", f"{verdict.subject.precision} on {engine}: {verdict.summary}")


def _proving(what: str) -> None:
    _tell("proving", what)


def _tell(event: str, what: str) -> None:
    print(msgspec.json.encode({"event": event, "what": what}).decode(), flush=True)


if __name__ == "__main__":
    main()
