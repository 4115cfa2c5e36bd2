"""The platform's first process: `python -m outpace.cli.supervise SETTINGS [FRONT_PID]`. Small by intention."""

import asyncio
import ctypes
import os
import signal
import sys
from pathlib import Path

import msgspec

from outpace.fleet.supervisor import Program, run_supervisor
from outpace.settings import Settings, environment, home_of
from outpace.values.errors import OutpaceError

_PR_SET_PDEATHSIG = 1
# For the replicas on other machines to end.
_REPLICAS_END_S = 20.0
# After the grace time of running requests: what a program needs to write down its end.
_LAST_WORDS_S = 5.0


def main(argv: list[str]) -> int:
    """Supervise until SIGTERM. With FRONT_PID, die with that process however it dies."""
    settings_path = Path(argv[0])
    if len(argv) > 1:
        _die_with(int(argv[1]))
    settings = msgspec.json.decode(settings_path.read_bytes(), type=Settings)
    programs = programs_of(settings, settings_path)
    try:
        asyncio.run(run_supervisor(home_of(settings), programs, base_env=environment()))
    except OutpaceError as error:
        # The last line of this process is the reason that `outpace up` shows.
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def programs_of(settings: Settings, settings_path: Path) -> list[Program]:
    """Control, and as many gateway workers as wanted. Workers end first, so that control bills what they did.

    With Ray its pool is a third kind, and ends last: with every replica.
    """
    compose = (sys.executable, "-m", "outpace.compose")
    workers = [
        Program(
            name=f"gateway-{index}",
            argv=(*compose, "gateway", str(settings_path), str(index)),
            stop_rank=0,
            grace_s=settings.grace_s + _LAST_WORDS_S,
        )
        for index in range(settings.workers)
    ]
    control = Program(
        name="control", argv=(*compose, "control", str(settings_path)), stop_rank=1, grace_s=_LAST_WORDS_S
    )
    if settings.ray is None:
        return [control, *workers]
    ray = Program(name="ray", argv=ray_pool("run", settings), stop_rank=2, grace_s=_REPLICAS_END_S)
    return [ray, control, *workers]


def ray_pool(what: str, settings: Settings) -> tuple[str, ...]:
    """The Ray pool's process: `run` it, or `sweep` what a killed one left."""
    assert settings.ray is not None, "only with an address"
    module = (sys.executable, "-m", "outpace.fleet.ray_pool")
    return (*module, what, settings.home, settings.ray, settings.ray_auth)


def _die_with(front_pid: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # It may have died before the line above took effect.
    if os.getppid() != front_pid:
        raise SystemExit(1)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
