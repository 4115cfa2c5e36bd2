"""A replica's keeper on a machine of the cluster: a supervisor for one replica, and the door in front of it.

`python -m outpace.fleet.keeper FOLDER HOST`: writes the door's address to standard output, obeys the supervisor's
socket in FOLDER, takes on standard input whom the door opens to, and ends everything when that input ends: with
whoever started it, however that one dies.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from outpace.fleet.relay import Relay
from outpace.fleet.supervisor import run_supervisor
from outpace.values.home import Home


class Behind(msgspec.Struct, frozen=True):
    """A line on standard input: the engine's socket, and the token that opens the door to it."""

    path: str
    token: str


async def keep(home: Home, host: str) -> None:
    """Supervise and relay until told to end, or until standard input ends."""
    relay = Relay()
    sys.stdout.write(await relay.open(host) + "\n")
    sys.stdout.flush()
    listening = asyncio.create_task(_obey_input(relay))
    try:
        await run_supervisor(home, (), base_env=_without_rays(os.environ))
    finally:
        listening.cancel()
        relay.close()


async def _obey_input(relay: Relay) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        behind = msgspec.json.decode(line, type=Behind)
        relay.point(behind.path, behind.token)
    # Twice: at once. Whom it serves is gone or has had its time.
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)


def _without_rays(inherited: Mapping[str, str]) -> dict[str, str]:
    """Without what Ray sets for its own workers: its token, and one thread for every OpenMP library."""
    return {
        name: value
        for name, value in inherited.items()
        if not name.startswith("RAY_") and name != "OMP_NUM_THREADS"
    }


if __name__ == "__main__":
    asyncio.run(keep(Home(Path(sys.argv[1])), sys.argv[2]))
