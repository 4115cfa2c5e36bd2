"""`python -m outpace.lab.prove ARTIFACTS MODEL`: make, measure and gate what `auto` may take, at the lowest priority.

A process of its own, so that nothing it does can slow or end control. One line of JSON per step on stdout.
"""

import asyncio
import os
import sys
from pathlib import Path

import msgspec

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
        chosen = asyncio.run(precisions.prove(model, lambda what: _tell("proving", what)))
    except (OutpaceError, OSError) as error:
        _tell("prove_failed", str(error))
        raise SystemExit(1) from None
    _tell("proved", f"{chosen.choice.precision}: {chosen.choice.reason}")


def _tell(event: str, what: str) -> None:
    print(msgspec.json.encode({"event": event, "what": what}).decode(), flush=True)


if __name__ == "__main__":
    main()
