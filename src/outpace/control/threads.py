"""Blocking calls off the loop, each in a daemon thread: a stuck one starves nobody and holds up no exit."""

import asyncio
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


async def in_thread(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """What `function` returns or raises. Cancelling stops the wait, not the function."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[_R] = loop.create_future()

    def settle(result: _R | None, error: BaseException | None) -> None:
        if outcome.done():
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(result)  # type: ignore[arg-type]  # a result is there when no error is

    def run() -> None:
        try:
            result, error = function(*args, **kwargs), None
        except BaseException as raised:  # noqa: BLE001 (a thread's edge: it is raised again in the caller)
            result, error = None, raised
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:
            # The loop has ended; nobody waits any more.
            return

    threading.Thread(target=run, name=getattr(function, "__name__", "call"), daemon=True).start()
    return await outcome
