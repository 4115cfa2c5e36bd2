"""Runs a module of the lab in a process of its own, so that nothing it does slows or ends who asks."""

import asyncio
import sys
from pathlib import Path

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
