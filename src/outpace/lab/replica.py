"""A replica for an experiment: started for it, on a private socket, and gone with it."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from secrets import token_hex
from typing import Protocol

import msgspec

from outpace.fleet.probe import Probe
from outpace.fleet.reasons import last_words
from outpace.values.clock import Clock
from outpace.values.deployment import Launch, LaunchOrder
from outpace.values.errors import EngineFailed, EngineTimedOut

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_KNOCK_EVERY_S = 0.05
_START_DEADLINE_S = 120.0
_STOP_DEADLINE_S = 5.0


class LabVariant(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact and the settings to run it with."""

    model: str
    artifact_path: Path
    context_tokens: int
    parallel: int
    threads: int = 1
    # Where converted weights are kept; empty: an engine that converts does so at every start.
    artifacts_dir: str = ""
    engine_settings: dict[str, str | int | float | bool] = {}


class LabReplica(msgspec.Struct, frozen=True, kw_only=True):
    """A replica that answers, and the file with its words."""

    address: str
    token: str
    pid: int
    log: Path


class Launches(Protocol):
    """Whatever says how a replica is started: an engine's adapter, or less."""

    def launch(self, order: LaunchOrder) -> Launch:
        """How to start it."""
        ...


@contextlib.asynccontextmanager
async def running(
    engine: Launches, variant: LabVariant, clock: Clock, start_deadline_s: float = _START_DEADLINE_S
) -> AsyncIterator[LabReplica]:
    """A ready replica of `variant`; it ends when the block does, and with this process in any case.

    Enter it on the main thread: the kernel ends the child when the thread that started it ends.
    Raises EngineFailed with the engine's last words, or EngineTimedOut.
    """
    with tempfile.TemporaryDirectory(prefix="outpace-lab-") as folder:
        launch = engine.launch(_order(variant, folder))
        log = Path(folder) / "log"
        with log.open("wb") as words:
            process = await asyncio.create_subprocess_exec(
                *launch.argv,
                env={**os.environ, **launch.env},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        try:
            await _wait_until_up(process, launch, log, clock, start_deadline_s)
            try:
                yield LabReplica(address=launch.address, token=launch.token, pid=process.pid, log=log)
            except EngineFailed as error:
                if process.returncode is None:
                    raise
                raise EngineFailed(f"{error}; it ended with {process.returncode}: {_words(log)}") from error
        finally:
            await _end(process)


def _order(variant: LabVariant, folder: str) -> LaunchOrder:
    return LaunchOrder(
        replica_id="lab",
        deployment=variant.model,
        model=variant.model,
        artifact_path=str(variant.artifact_path),
        artifacts_dir=variant.artifacts_dir or None,
        tasks=("chat", "completions"),
        context_tokens=variant.context_tokens,
        parallel=variant.parallel,
        threads=variant.threads,
        socket_dir=folder,
        token=token_hex(16),
        engine_settings=variant.engine_settings,
        loads_at_once=True,
    )


async def _wait_until_up(
    process: asyncio.subprocess.Process, launch: Launch, log: Path, clock: Clock, start_deadline_s: float
) -> None:
    deadline_s = clock.monotonic_s() + start_deadline_s
    async with Probe(launch.address, launch.token) as probe:
        while not await probe.is_up("/health", _KNOCK_EVERY_S * 20):
            if process.returncode is not None:
                raise EngineFailed(_words(log))
            if clock.monotonic_s() > deadline_s:
                raise EngineTimedOut(f"the engine is not up after {start_deadline_s:.0f} s")
            await clock.sleep(_KNOCK_EVERY_S)


def _words(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return last_words(lines[-1]) if lines else "the engine ended without a word"


async def _end(process: asyncio.subprocess.Process) -> None:
    _signal_group(process.pid, signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), _STOP_DEADLINE_S)
    # Also when it has ended: an engine's own processes may outlive it (vLLM's do).
    _signal_group(process.pid, signal.SIGKILL)
    await process.wait()


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def die_with_parent() -> None:
    """Have the kernel end this process when its parent ends; only Linux can."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
