"""Runs a module of the lab in a process of its own, so that nothing it does slows or ends who asks."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from outpace.lab.replica import die_with_parent
from outpace.values.clock import Clock, SystemClock
from outpace.values.errors import EngineFailed

_CLOCK = SystemClock()
# A start that somebody waits for takes half a second at best.
_HOLD_EVERY_S = 0.02


async def run_apart(
    log: Path, module: str, *arguments: str, held: Callable[[], bool] | None = None, clock: Clock = _CLOCK
) -> None:
    """Run a module to its end, its words in `log`; cancelling ends it, with its children. Raises EngineFailed.

    While `held` says so, all of them stand still.
    """
    with log.open("ab") as words:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            # A group of its own, to stop and to end it as a whole.
            start_new_session=True,
        )
    holding = None if held is None else asyncio.create_task(_hold(process.pid, held, clock))
    try:
        if await process.wait() != 0:
            raise EngineFailed(f"{module} ended with {process.returncode}; see {log}")
    finally:
        if holding is not None:
            holding.cancel()
        if process.returncode is None:
            _signal(process.pid, signal.SIGKILL)
            await process.wait()


async def _hold(group: int, held: Callable[[], bool], clock: Clock) -> None:
    """Stop a group of processes whenever `held`, and have it go on when not. Until cancelled."""
    is_still = False
    while True:
        if held() != is_still:
            is_still = not is_still
            _signal(group, signal.SIGSTOP if is_still else signal.SIGCONT)
        await clock.sleep(_HOLD_EVERY_S)


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def run_steps(failure: str, report: Callable[[int, int], None], module: str, *arguments: str) -> None:
    """Run a module that writes `step N OF` lines; others are passed over. Blocks until it ends.

    Raises EngineFailed: `failure`, and the last words.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=die_with_parent,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if line.startswith("step "):
                report(*map(int, line.split()[1:3]))
        words = process.stderr.read().strip().splitlines()
    if process.returncode != 0:
        raise EngineFailed(f"{failure}: {words[-1] if words else process.returncode}")
