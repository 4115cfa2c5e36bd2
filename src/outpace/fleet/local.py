"""Pools reached through a socket in the home: the supervisor's, whose processes run on this machine, and others."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from outpace.fleet import wire
from outpace.fleet.pool import Child, Fetching, PoolMachine
from outpace.values.clock import Clock
from outpace.values.deployment import Launch
from outpace.values.errors import Conflict, EngineFailed, InvalidInput, OutpaceError, Overloaded
from outpace.values.home import Home

_ANSWER_DEADLINE_S = 10.0
# A start on another machine waits for a process there.
_RAY_ANSWER_S = 90.0
_RECONNECT_WAIT_S = 0.5


class SocketPool:
    """A `Pool` behind a socket. A connection per order; one that stays for the ends."""

    def __init__(self, path: Path, who: str, clock: Clock, answer_s: float = _ANSWER_DEADLINE_S) -> None:
        self._path = path
        self._who = who
        self._clock = clock
        self._answer_s = answer_s
        self._fetching: dict[str, Fetching] = {}

    async def start(self, name: str, launch: Launch, note: str = "") -> Child:
        """Start a process. Raises Conflict, InvalidInput or EngineFailed."""
        return await self._begin(name, wire.Spawn(name=name, launch=launch, note=note))

    async def stand_by(self, name: str, launch: Launch, note: str = "") -> Child:
        """Start a process that waits for another's launch. Raises Conflict, InvalidInput or EngineFailed."""
        order = wire.Spawn(name=name, launch=launch, note=note, stands_by=True)
        return await self._begin(name, order)

    async def hand_over(self, standby: str, name: str, launch: Launch, note: str = "") -> Child:
        """Let a process that stands by become a replica. Raises Conflict, InvalidInput or EngineFailed."""
        order = wire.HandOver(standby=standby, name=name, launch=launch, note=note)
        return await self._begin(name, order)

    async def stop(self, name: str, grace_s: float) -> None:
        """Ask a replica to end; its group is killed after `grace_s`."""
        await self._ask(wire.Stop(name=name, grace_s=grace_s))

    async def replicas(self) -> list[Child]:
        """The replicas that run, and those that ended lately."""
        return [child for child in await self.everything() if child.is_replica]

    async def everything(self) -> list[Child]:
        """Replicas and the platform's own programs."""
        return (await self._ask(wire.List())).children

    async def machines(self) -> list[PoolMachine]:
        """The machines of a pool that has several."""
        return (await self._ask(wire.Machines())).machines

    def fetching(self, name: str) -> Fetching | None:
        """How far the weights of a start under way have come."""
        return self._fetching.get(name)

    async def ends(self) -> AsyncIterator[Child]:
        """Every end of a replica from now on; comes back by itself when the connection is lost."""
        while True:
            with contextlib.suppress(OSError):
                async for child in self._watched():
                    if child.is_replica:
                        yield child
            await self._clock.sleep(_RECONNECT_WAIT_S)

    async def _watched(self) -> AsyncIterator[Child]:
        reader, writer = await asyncio.open_unix_connection(self._path, limit=wire.LONGEST_LINE_BYTES)
        try:
            writer.write(wire.line(wire.Watch()))
            await writer.drain()
            while raw := await reader.readline():
                for child in wire.answer(raw).children:
                    yield child
        finally:
            writer.close()

    async def _begin(self, name: str, order: wire.Order) -> Child:
        try:
            return (await self._ask(order, name)).children[0]
        finally:
            self._fetching.pop(name, None)

    async def _ask(self, order: wire.Order, name: str = "") -> wire.Answer:
        try:
            answer = await self._exchange(wire.line(order), name)
        except (OSError, TimeoutError, ValueError, msgspec.DecodeError) as error:
            raise Overloaded(f"{self._who} does not answer ({error or type(error).__name__})") from error
        if answer.error is not None:
            raise _refusal(answer.code, answer.error)
        return answer

    async def _exchange(self, line: bytes, name: str) -> wire.Answer:
        reader, writer = await asyncio.open_unix_connection(self._path, limit=wire.LONGEST_LINE_BYTES)
        try:
            writer.write(line)
            async with asyncio.timeout(self._answer_s) as deadline:
                await writer.drain()
                while (answer := wire.answer(await reader.readline())).fetching is not None:
                    # Weights take as long as they take; that they come is a sign of life.
                    self._fetching[name] = answer.fetching
                    deadline.reschedule(asyncio.get_running_loop().time() + self._answer_s)
            return answer
        finally:
            writer.close()


class LocalPool(SocketPool):
    """The pool of the supervisor that runs in `home`."""

    def __init__(self, home: Home, clock: Clock) -> None:
        super().__init__(home.sockets / "supervisor.sock", "the supervisor", clock)


class OnRay(SocketPool):
    """The pool of the process that has the Ray pool of `home`."""

    def __init__(self, home: Home, clock: Clock) -> None:
        super().__init__(home.ray_socket, "the Ray pool", clock, _RAY_ANSWER_S)


def _refusal(code: str | None, message: str) -> OutpaceError:
    if code == Conflict.code:
        return Conflict(message)
    if code == InvalidInput.code:
        return InvalidInput(None, message)
    return EngineFailed(message)
