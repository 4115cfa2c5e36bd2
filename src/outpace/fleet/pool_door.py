"""A pool on a Unix socket, so that a process of its own can have it: the words are those of `fleet/wire`."""

import asyncio
import contextlib
from pathlib import Path

import msgspec

from outpace.fleet import wire
from outpace.fleet.pool import Pool
from outpace.values.errors import InvalidInput, OutpaceError

_TELL_EVERY_S = 0.5


class PoolDoor:
    """Obeys orders on a socket with a pool; orders of one connection one after the other."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def open(self, path: Path) -> asyncio.Server:
        """Listen; only the owner of this process may connect."""
        path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._serve, path=path, limit=wire.LONGEST_LINE_BYTES)
        path.chmod(0o600)
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while raw := await reader.readline():
                answer = await self._answer_at_last(raw, writer)
                writer.write(wire.line(answer))
                await writer.drain()
                if _is_watch(raw):
                    await self._tell_ends(reader, writer)
        except (ConnectionError, ValueError):
            # ValueError: a line beyond the limit. The connection is of no more use.
            pass
        finally:
            writer.close()

    async def _answer_at_last(self, raw: bytes, writer: asyncio.StreamWriter) -> wire.Answer:
        """The answer; meanwhile how far a start's weights are. A start is given up when nobody listens any more."""
        answering = asyncio.create_task(self._answer(raw))
        name = _name_of(raw)
        try:
            while not answering.done():
                await asyncio.wait({answering}, timeout=_TELL_EVERY_S)
                fetching = self._pool.fetching(name)
                if fetching is not None and not answering.done():
                    writer.write(wire.line(wire.Answer(fetching=fetching)))
                    await writer.drain()
            return answering.result()
        finally:
            answering.cancel()

    async def _answer(self, raw: bytes) -> wire.Answer:
        try:
            return await self._obey(wire.order(raw))
        except OutpaceError as error:
            return wire.Answer(error=str(error), code=error.code)
        except msgspec.DecodeError as error:
            return wire.Answer(error=str(error), code=InvalidInput.code)

    async def _obey(self, order: wire.Order) -> wire.Answer:
        match order:
            case wire.Spawn():
                start = self._pool.stand_by if order.stands_by else self._pool.start
                return wire.Answer(children=[await start(order.name, order.launch, order.note)])
            case wire.HandOver():
                taken = await self._pool.hand_over(order.standby, order.name, order.launch, order.note)
                return wire.Answer(children=[taken])
            case wire.Stop():
                await self._pool.stop(order.name, order.grace_s)
                return wire.Answer()
            case wire.Watch():
                return wire.Answer()
            case wire.List():
                return wire.Answer(children=await self._pool.replicas())
            case wire.Machines():
                return wire.Answer(machines=await self._pool.machines())

    async def _tell_ends(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the other side closes."""
        telling = asyncio.create_task(self._tell(writer))
        try:
            await reader.read()
        finally:
            telling.cancel()

    async def _tell(self, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            async for child in self._pool.ends():
                writer.write(wire.line(wire.Answer(children=[child])))
                await writer.drain()


def _is_watch(raw: bytes) -> bool:
    with contextlib.suppress(msgspec.DecodeError):
        return isinstance(wire.order(raw), wire.Watch)
    return False


def _name_of(raw: bytes) -> str:
    """Whose start this orders; empty for all other orders."""
    with contextlib.suppress(msgspec.DecodeError):
        order = wire.order(raw)
        return order.name if isinstance(order, wire.Spawn | wire.HandOver) else ""
    return ""
