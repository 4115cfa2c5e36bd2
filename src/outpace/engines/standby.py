"""A process with its engine imported and no model: it waits for another's launch and then becomes that replica.

Run as `python -m outpace.engines.standby MODULE MEMORY_BYTES`, its standard input a socket of whoever started it. It
says `standing_by` when MODULE is imported, `prepare`, where MODULE has one, has run, and that much memory is at hand
for the model to come. It answers `ping` with `pong`, and a launch with `taken`: then it runs MODULE's `main` with the
launch's arguments and environment. It ends when the socket closes.
"""

import importlib
import os
import socket
import sys
from types import ModuleType

import msgspec

from outpace.engines import child, memory_ahead

# A launch with a long environment; the configuration of an engine has some hundred bytes.
_LONGEST_LINE_BYTES = 1024 * 1024
STANDING_BY = b"standing_by\n"
PING = b"ping\n"
PONG = b"pong\n"
TAKEN = b"taken\n"


class HandOver(msgspec.Struct, frozen=True):
    """The launch that a standby is to become: the arguments behind `-m MODULE`, and what the environment gets."""

    argv: tuple[str, ...]
    env: dict[str, str]


def main() -> None:
    """Import, wait, become."""
    name = sys.argv[1]
    module = _imported(name)
    memory_ahead.take(int(sys.argv[2]))
    with socket.socket(fileno=os.dup(0)) as channel:
        channel.sendall(STANDING_BY)
        given = _await_launch(channel)
        child.phases.begin_again()
        channel.sendall(TAKEN)
    _let_go_of_input()
    os.environ.update(given.env)
    sys.argv = [module.__file__ or name, *given.argv]
    module.main()


def _imported(name: str) -> ModuleType:
    module = importlib.import_module(name)
    prepare = getattr(module, "prepare", None)
    if prepare is not None:
        prepare()
    return module


def _await_launch(channel: socket.socket) -> HandOver:
    with channel.makefile("rb") as lines:
        while line := lines.readline(_LONGEST_LINE_BYTES):
            if line == PING:
                channel.sendall(PONG)
                continue
            try:
                return msgspec.json.decode(line, type=HandOver)
            except msgspec.DecodeError as error:
                child.fail("hand_over_invalid", str(error))
    # Whoever started it has gone, and with it everyone who could hand over.
    raise SystemExit(0)


def _let_go_of_input() -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


if __name__ == "__main__":
    main()
