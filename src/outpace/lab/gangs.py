"""Static batching, for comparison only: requests start in gangs, and the next gang waits for the last of this one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gangs:
    """Lets requests through in gangs of at most `size`; a gang is whoever waits when the one before has ended."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._waiting: list[asyncio.Future[None]] = []
        self._running = 0
        self._is_forming = False

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """From the start of the gang to the end of this request."""
        loop = asyncio.get_running_loop()
        let_in: asyncio.Future[None] = loop.create_future()
        self._waiting.append(let_in)
        self._form(loop)
        try:
            await let_in
        except asyncio.CancelledError:
            self._leave(let_in)
            self._form(loop)
            raise
        try:
            yield
        finally:
            self._running -= 1
            self._form(loop)

    def _form(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the next gang, once everyone who became free in this round of the loop is back in line."""
        if self._running or self._is_forming or not self._waiting:
            return
        self._is_forming = True
        loop.call_soon(self._start)

    def _start(self) -> None:
        self._is_forming = False
        gang, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
        for let_in in gang:
            if not let_in.done():
                let_in.set_result(None)
                self._running += 1

    def _leave(self, let_in: "asyncio.Future[None]") -> None:
        if let_in in self._waiting:
            self._waiting.remove(let_in)
        elif let_in.done() and not let_in.cancelled():
            self._running -= 1
