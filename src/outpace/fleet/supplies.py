"""The files of a launch on every machine of a replica before its engine starts: asked for, offered, waited for.

Hosts are actors of `ray_host.ReplicaHost`; there is no Ray in here.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from outpace.fleet import wire
from outpace.fleet.artifact_door import ArtifactDoor
from outpace.fleet.artifacts import Artifact, FetchOrder, Hashes, listed
from outpace.fleet.pool import Fetching
from outpace.values.errors import EngineFailed

_ASK_S = 45.0
_LOOK_EVERY_S = 0.25
_LOOK_S = 2.0


class Supplies:
    """What one pool has to send, and the door to it, which opens when a machine lacks something."""

    def __init__(self, sockets: Path, own_address: Callable[[], str]) -> None:
        self._sockets = sockets
        self._own_address = own_address
        self._hashes = Hashes()
        self._door: ArtifactDoor | None = None

    async def bring(
        self, hosts: Sequence[Any], files: Sequence[str], progress: MutableMapping[int, Fetching]
    ) -> bool:
        """True when something had to come and is there; `progress` has those under way, by place in `hosts`.

        Raises EngineFailed when it cannot come, and whatever asking a host raises.
        """
        found = [await asyncio.to_thread(listed, Path(path)) for path in files]
        # What is not here may be there: the host looks before it starts.
        artifacts = [artifact for artifact in found if artifact is not None]
        if not artifacts:
            return False
        asked = msgspec.json.encode(artifacts)
        answers = await asyncio.gather(*(within(_ASK_S, host.lacks.remote(asked)) for host in hosts))
        lacking = [set(msgspec.json.decode(answer, type=list[str])) for answer in answers]
        progress.update({place: Fetching(0, 0) for place, paths in enumerate(lacking) if paths})
        if not progress:
            return False
        try:
            orders = {
                place: await self._order([each for each in artifacts if each.path in lacking[place]])
                for place in progress
            }
            await asyncio.gather(
                *(_bring(hosts[place], place, order, progress) for place, order in orders.items())
            )
        finally:
            progress.clear()
        return True

    async def close(self) -> None:
        """Cut what is under way."""
        if self._door is not None:
            await self._door.close()

    async def _order(self, artifacts: Sequence[Artifact]) -> FetchOrder:
        if self._door is None:
            self._door = ArtifactDoor(self._sockets, await asyncio.to_thread(self._own_address))
        hashed = [await asyncio.to_thread(self._hashes.hashed, artifact) for artifact in artifacts]
        return FetchOrder(artifacts=tuple(hashed), source=await self._door.offer(hashed))


async def within(deadline_s: float, awaited: Awaitable[bytes]) -> bytes:
    """The answer of a host. Raises TimeoutError."""
    async with asyncio.timeout(deadline_s):
        return await awaited


async def _bring(host: Any, place: int, order: FetchOrder, progress: MutableMapping[int, Fetching]) -> None:
    bringing = asyncio.ensure_future(_awaited(host.fetch.remote(msgspec.json.encode(order))))
    try:
        while not bringing.done():
            await asyncio.wait({bringing}, timeout=_LOOK_EVERY_S)
            with contextlib.suppress(TimeoutError):
                seen = await within(_LOOK_S, host.fetching.remote())
                progress[place] = msgspec.json.decode(seen, type=Fetching)
        answer = wire.answer(bringing.result())
    finally:
        bringing.cancel()
    if answer.error is not None:
        raise EngineFailed(answer.error)


async def _awaited(awaited: Awaitable[bytes]) -> bytes:
    return await awaited
