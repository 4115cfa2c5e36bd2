"""Handing a launch to a process that stands by: the words on its standard input, `engines/standby` at the other end."""

import asyncio
import socket
import sys
from collections.abc import Sequence

import msgspec

from outpace.engines.standby import PING, PONG, STANDING_BY, TAKEN, HandOver
from outpace.values.deployment import Launch
from outpace.values.errors import EngineFailed

_MODULE = "outpace.engines.standby"
# A process that stands by answers within a millisecond, on a busy machine within some more; one that still imports
# its engine is worth waiting for.
DEADLINE_S = 3.0


def standby_launch(module: str, memory_bytes: int = 0) -> Launch:
    """How to start a process that imports `module`, the `-m` of an engine's launches, and waits with memory at hand."""
    return Launch(argv=(sys.executable, "-m", _MODULE, module, str(memory_bytes)), address="", token="")


def arguments(standby_argv: Sequence[str], argv: Sequence[str]) -> tuple[str, ...]:
    """What of a launch's command a process that stands by is told. Raises EngineFailed for another engine's."""
    module = standby_argv[3] if len(standby_argv) > 3 else ""
    if tuple(standby_argv[1:3]) != ("-m", _MODULE) or tuple(argv[1:3]) != ("-m", module):
        raise EngineFailed(f"it stands by for {module}, not for {' '.join(argv[:3])}")
    return tuple(argv[3:])


async def hand_over(channel: socket.socket, arguments: tuple[str, ...], env: dict[str, str]) -> None:
    """Return when the process has taken the launch. Raises EngineFailed when it does not in time."""
    message = msgspec.json.encode(HandOver(argv=arguments, env=env)) + b"\n"
    try:
        async with asyncio.timeout(DEADLINE_S):
            await _expect(channel, PING, STANDING_BY + PONG)
            await _expect(channel, message, TAKEN)
    except TimeoutError as error:
        raise EngineFailed(f"the process that stands by did not answer within {DEADLINE_S:.0f} s") from error
    except OSError as error:
        raise EngineFailed(f"the process that stands by is gone: {error.strerror}") from error


async def _expect(channel: socket.socket, said: bytes, answer: bytes) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(channel, said)
    heard = b""
    while heard != answer:
        piece = await loop.sock_recv(channel, len(answer) - len(heard))
        heard += piece
        if not piece or not answer.startswith(heard):
            raise EngineFailed("the process that stands by is gone")
