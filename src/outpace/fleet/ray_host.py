"""What runs on a machine of the cluster for each replica: a keeper with the engine, and who speaks for them.

Ray makes an actor of it (`ray_pool`); there is no Ray in here. Answers are lines of `fleet/wire`, so that no exception
travels as a pickle. It ends by itself when nobody has asked for it during its lease: no orphans.
"""

import asyncio
import contextlib
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from outpace import __version__
from outpace.fleet import wire
from outpace.fleet.artifacts import Artifact, FetchOrder, is_here
from outpace.fleet.cluster import Facts, HostOrder, moved, why_other_version
from outpace.fleet.fetching import FetchedStore
from outpace.fleet.keeper import Behind
from outpace.fleet.local import LocalPool
from outpace.fleet.pool import Child, Fetching
from outpace.hardware.machine import detect
from outpace.values.clock import SystemClock
from outpace.values.deployment import Launch
from outpace.values.errors import EngineFailed, OutpaceError, Overloaded
from outpace.values.home import Home
from outpace.values.units import KIB

_KEEPER_DEADLINE_S = 20.0
_KEEPER_AGAIN_S = 0.02
_LOOK_EVERY_S = 0.5
_LAST_WORDS_S = 5.0
_LARGEST_PIECE_BYTES = 128 * KIB


def facts() -> Facts:
    """What this machine has."""
    machine = detect()
    return Facts(
        version=__version__,
        cores=machine.cores,
        memory_bytes=machine.memory_bytes,
        accelerators=tuple(device.name for device in machine.accelerators),
    )


class ReplicaHost:
    """One replica on one machine; its methods run on one event loop."""

    def __init__(
        self, host: str, machine: str, lease_s: float, give_back: Callable[[], None], fetched: FetchedStore
    ) -> None:
        self._host = host
        self._machine = machine
        self._lease_s = lease_s
        # What this machine was sent, for this replica and others.
        self._fetched = fetched
        # Where fetched artifacts lie here, by their paths where they came from.
        self._places: dict[str, str] = {}
        self._fetching = Fetching(0, 0)
        self._leased: asyncio.Task[None] | None = None
        # Called when the lease ran out, after everything has ended.
        self._give_back = give_back
        self._clock = SystemClock()
        # Made when something starts: an actor that is killed before leaves no folder.
        self._home = Home(Path(tempfile.gettempdir()) / f"outpace-{secrets.token_hex(6)}")
        self._pool = LocalPool(self._home, self._clock)
        self._keeper: asyncio.subprocess.Process | None = None
        self._address = ""
        self._child: Child | None = None
        self._has_ended = asyncio.Event()
        self._asked_s = self._clock.monotonic_s()
        self._renaming = asyncio.Lock()
        self._told_bytes = 0
        self._watching: asyncio.Task[None] | None = None

    async def facts(self) -> bytes:
        """The machine's `Facts`."""
        self._renew()
        return msgspec.json.encode(facts())

    async def lacks(self, raw: bytes) -> bytes:
        """Which of these artifacts are not here under the same path, as a list of paths."""
        self._renew()
        artifacts = msgspec.json.decode(raw, type=list[Artifact])
        here = await asyncio.to_thread(lambda: [is_here(artifact) for artifact in artifacts])
        lacking = [artifact.path for artifact, is_ok in zip(artifacts, here, strict=True) if not is_ok]
        return msgspec.json.encode(lacking)

    async def fetch(self, raw: bytes) -> bytes:
        """Bring what a `FetchOrder` names; an answer with the error, or without one when all is here."""
        order = msgspec.json.decode(raw, type=FetchOrder)
        before_bytes = 0
        total_bytes = sum(artifact.size_bytes for artifact in order.artifacts)

        def report(done_bytes: int, of_bytes: int) -> None:
            self._fetching = Fetching(before_bytes + done_bytes, total_bytes)

        try:
            for artifact in order.artifacts:
                self._places[artifact.path] = str(await self._fetched.bring(artifact, order.source, report))
                before_bytes += artifact.size_bytes
        except OutpaceError as error:
            return wire.line(wire.Answer(error=f"{self._machine}: {error}", code=error.code))
        return wire.line(wire.Answer())

    async def fetching(self) -> bytes:
        """How far `fetch` is; renews the lease."""
        self._renew()
        return msgspec.json.encode(self._fetching)

    async def start(self, raw: bytes) -> bytes:
        """Start what a `HostOrder` says; the child, or why not."""
        self._renew()
        try:
            child = await self._start(msgspec.json.decode(raw, type=HostOrder))
        except OutpaceError as error:
            await self._end_keeper()
            return wire.line(wire.Answer(error=str(error), code=error.code))
        return wire.line(wire.Answer(children=[child]))

    async def hand_over(self, raw: bytes) -> bytes:
        """Let the process that stands by here become the replica of a `HostOrder`; the child, or why not."""
        self._renew()
        try:
            child = await self._hand_over(msgspec.json.decode(raw, type=HostOrder))
        except OutpaceError as error:
            return wire.line(wire.Answer(error=str(error), code=error.code))
        return wire.line(wire.Answer(children=[child]))

    async def look(self) -> bytes:
        """The child as it is now; renews the lease."""
        self._renew()
        if self._child is not None and not self._has_ended.is_set():
            with contextlib.suppress(OutpaceError):
                await self._refresh()
        return wire.line(wire.Answer(children=[self._child] if self._child else [], log=self._written()))

    async def stop(self, grace_s: float) -> None:
        """Ask the replica to end; its group is killed after `grace_s`."""
        self._renew()
        if self._child is not None:
            with contextlib.suppress(OutpaceError):
                await self._pool.stop(self._child.name, grace_s)

    async def ended(self) -> bytes:
        """Wait for its end; by then nothing of it runs here."""
        await self._has_ended.wait()
        answer = await self.look()
        await self._end_keeper()
        return answer

    def _written(self) -> str:
        """What the replica has written since this was asked last, or the end of it."""
        if self._child is None:
            return ""
        try:
            with (self._home.logs / f"{self._child.name}.log").open("rb") as file:
                length = file.seek(0, 2)
                # A smaller file is a new one.
                start = self._told_bytes if self._told_bytes <= length else 0
                file.seek(max(start, length - _LARGEST_PIECE_BYTES))
                piece = file.read()
        except OSError:
            return ""
        self._told_bytes = length
        return piece.decode(errors="replace")

    def _renew(self) -> None:
        self._asked_s = self._clock.monotonic_s()
        if self._leased is None:
            self._leased = asyncio.create_task(self._end_with_lease())

    async def _start(self, order: HostOrder) -> Child:
        problem = why_other_version(order.version, __version__)
        if problem is not None:
            raise EngineFailed(f"{self._machine}: {problem}")
        self._home.make()
        launch = self._here(order)
        await self._start_keeper()
        self._point(launch)
        child = await self._at_last(order, launch)
        self._child = self._placed(child)
        self._watching = asyncio.create_task(self._watch())
        return self._child

    async def _hand_over(self, order: HostOrder) -> Child:
        assert self._child is not None, "only what stands by is handed over"
        launch = self._here(order)
        # Two looks at one process under two names would take it for two.
        async with self._renaming:
            child = await self._pool.hand_over(self._child.name, order.name, launch, order.note)
            self._told_bytes = 0
            self._child = self._placed(child)
        self._point(launch)
        return self._child

    def _here(self, order: HostOrder) -> Launch:
        """The launch with this machine's paths. Raises EngineFailed for files that are not here."""
        paths = {order.python: sys.executable, order.socket_dir: str(self._home.sockets), **self._places}
        if order.artifacts_dir and not Path(order.artifacts_dir).is_dir():
            # What engines make of weights is kept with what was sent here.
            paths[order.artifacts_dir] = str(self._fetched.folder)
        launch = moved(order.launch, order, paths)
        self._require_files(launch.files)
        return launch

    def _placed(self, child: Child) -> Child:
        return msgspec.structs.replace(child, address=self._address, machine=self._machine)

    def _point(self, launch: Launch) -> None:
        """Open the door to the launch's engine; one without a token, as what stands by, stays behind it."""
        if not launch.token:
            return
        assert self._keeper is not None
        assert self._keeper.stdin is not None
        behind = Behind(launch.address.removeprefix("unix:"), launch.token)
        self._keeper.stdin.write(msgspec.json.encode(behind) + b"\n")

    def _require_files(self, files: tuple[str, ...]) -> None:
        missing = [path for path in files if not Path(path).exists()]
        if missing:
            raise EngineFailed(
                f"{self._machine} has no {missing[0]}, nor has the machine of `outpace up`; is the path right?"
            )

    async def _start_keeper(self) -> None:
        with (self._home.logs / "keeper.log").open("ab") as log:
            self._keeper = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "outpace.fleet.keeper", str(self._home.root), self._host),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert self._keeper.stdout is not None
        async with asyncio.timeout(_KEEPER_DEADLINE_S):
            self._address = (await self._keeper.stdout.readline()).decode().strip()
        if not self._address:
            raise EngineFailed(f"{self._machine}: the replica's keeper did not start; see its keeper.log")

    async def _at_last(self, order: HostOrder, launch: Launch) -> Child:
        """Give the order as soon as the keeper's socket is there."""
        deadline_s = self._clock.monotonic_s() + _KEEPER_DEADLINE_S
        while True:
            try:
                start = self._pool.stand_by if order.stands_by else self._pool.start
                return await start(order.name, launch, order.note)
            except Overloaded:
                if self._clock.monotonic_s() > deadline_s:
                    raise
            await self._clock.sleep(_KEEPER_AGAIN_S)

    async def _refresh(self) -> None:
        assert self._child is not None
        async with self._renaming:
            for child in await self._pool.replicas():
                if child.name == self._child.name:
                    self._child = self._placed(child)
            if self._child.exit_code is not None:
                self._has_ended.set()

    async def _watch(self) -> None:
        """Until the end: told by the keeper, or the keeper's own."""
        assert self._keeper is not None
        told = asyncio.create_task(self._wait_until_told())
        gone = asyncio.create_task(self._keeper.wait())
        while not self._has_ended.is_set():
            await asyncio.wait({told, gone}, timeout=_LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
            with contextlib.suppress(OutpaceError):
                await self._refresh()
            if gone.done() and not self._has_ended.is_set():
                assert self._child is not None
                self._child = msgspec.structs.replace(
                    self._child, exit_code=1, last_line="its keeper ended, and the replica with it"
                )
                self._has_ended.set()
        told.cancel()
        gone.cancel()

    async def _wait_until_told(self) -> None:
        async for _ in self._pool.ends():
            return

    async def _end_with_lease(self) -> None:
        while self._clock.monotonic_s() - self._asked_s < self._lease_s:
            await self._clock.sleep(min(1.0, self._lease_s / 4))
        await self._end_keeper()
        self._give_back()

    async def _end_keeper(self) -> None:
        """End the keeper, with it whatever it has, and remove its folder."""
        if self._keeper is not None and self._keeper.returncode is None:
            assert self._keeper.stdin is not None
            self._keeper.stdin.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORDS_S):
                    await self._keeper.wait()
            if self._keeper.returncode is None:
                self._keeper.kill()
        shutil.rmtree(self._home.root, ignore_errors=True)
        self._fetched.release()
        await asyncio.to_thread(self._fetched.collect)
