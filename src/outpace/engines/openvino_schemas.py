"""Whether the engine can follow a JSON schema, asked of a process that may fail at it."""

import asyncio
import json
import socket
import sys
from collections import OrderedDict
from pathlib import Path

from outpace.values.errors import InvalidInput

_LENGTH_BYTES = 4
_START_S = 60.0
# A string of `maxLength: 1000` takes 2.0 s on an AMD EPYC (2026-11-29), longer ones 1.9 to 2.3 s.
_LONGEST_TRIAL_S = 3.0
# A larger count is a mistake or an attempt to hold the engine up.
MOST_REPEATED = 65_536
_COUNTS = frozenset({"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"})
_MOST_KNOWN = 512
_LONGEST_REASON = 200


def over_bound(schema: str) -> str:
    """Why the counts in a JSON schema are too large to follow; empty when they are not."""
    left = [json.loads(schema)]
    while left:
        part = left.pop()
        if isinstance(part, list):
            left += part
        elif isinstance(part, dict):
            for name, value in part.items():
                if name in _COUNTS and isinstance(value, int) and value > MOST_REPEATED:
                    return f"the schema's {name} of {value} cannot be followed; {MOST_REPEATED} is the most"
            left += part.values()
    return ""


class Schemas:
    """One trial process, started with the first schema and again after one that it did not survive."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: OrderedDict[str, str] = OrderedDict()
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def check(self, schema: str) -> None:
        """Raise InvalidInput for a schema that cannot be followed, or not within the limits."""
        refusal = over_bound(schema)
        if refusal:
            raise InvalidInput("response_format", refusal)
        async with self._turn:
            if schema not in self._known:
                self._known[schema] = await self._tried(schema)
                if len(self._known) > _MOST_KNOWN:
                    self._known.popitem(last=False)
            self._known.move_to_end(schema)
        if self._known[schema]:
            raise InvalidInput("response_format", self._known[schema])

    async def _tried(self, schema: str) -> str:
        try:
            if self._process is None or self._process.returncode is not None:
                await self._start()
            refusal = await asyncio.wait_for(self._asked(schema), _LONGEST_TRIAL_S)
        except (TimeoutError, asyncio.IncompleteReadError, OSError):
            self._end()
            return "the schema takes too long or too much memory to follow; make it smaller"
        return f"the schema cannot be followed: {refusal[:_LONGEST_REASON]}" if refusal else ""

    async def _asked(self, schema: str) -> str:
        assert self._reader is not None
        assert self._writer is not None
        raw = schema.encode()
        self._writer.write(len(raw).to_bytes(_LENGTH_BYTES, "little") + raw)
        length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES), "little")
        return (await self._reader.readexactly(length)).decode(errors="replace")

    async def _start(self) -> None:
        ours, theirs = socket.socketpair()
        argv = (sys.executable, "-m", "outpace.engines.openvino_trial", str(self._folder))
        self._process = await asyncio.create_subprocess_exec(*argv, stdin=theirs.fileno())
        theirs.close()
        self._reader, self._writer = await asyncio.open_connection(sock=ours)
        # An empty schema has no meaning of its own: its answer says that the process is up.
        await asyncio.wait_for(self._asked("{}"), _START_S)

    def _end(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
        if self._writer is not None:
            self._writer.close()
        self._process = self._reader = self._writer = None
