"""Runs a module of the lab in a process of its own, so that nothing it does slows or ends who asks."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from outpace.lab.replica import die_with_parent
from outpace.values.errors import EngineFailed


async def run_apart(log: Path, module: str, *arguments: str) -> None:
    """Run a module to its end, its words in `log`; cancelling ends it. Raises EngineFailed."""
    with log.open("ab") as words:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=words,
            stderr=words,
        )
    try:
        if await process.wait() != 0:
            raise EngineFailed(f"{module} ended with {process.returncode}; see {log}")
    finally:
        if process.returncode is None:
            process.kill()


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
