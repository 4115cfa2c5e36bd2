"""The engine adapter: everything Outpace must know of an engine, as declarations and pure functions.

An adapter never does I/O. `fleet` starts what `launch` describes; `gateway` sends what `call` returns and
feeds the answer's bytes to the reader that `call` names. Add an engine: docs/guides/add-an-engine.md.
"""

from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec

from outpace.values.deployment import Launch, LaunchOrder, Task
from outpace.values.errors import OutpaceError
from outpace.values.requests import EngineBound
from outpace.values.snapshot import DeploymentEntry
from outpace.values.usage import Usage


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine can do; what is not declared is refused by name."""

    tasks: frozenset[Task]
    # Request fields that the engine (or its reader) honours, per endpoint. Fields that have no effect on
    # the answer (`user`, `metadata`, …) are honoured by the gateway and need no mention.
    parameters: Mapping[Task, frozenset[str]]
    # Same seed and temperature 0 give the same text, also under load.
    deterministic: bool = False
    # The engine stops work when the connection closes.
    cancels_on_disconnect: bool = True
    # A text answer goes on behind `Hints.sent_text`, so that a stream can move to another replica.
    continues: bool = False
    # True: Outpace starts the process. False: it is reached by URL.
    is_launched: bool = True
    # How the adapter was tried: with the real program, or only against its published protocol.
    tested_with: Literal["the program", "its protocol"] = "the program"
    # The module behind `-m` in its launches, when a process may import it ahead and wait (`engines/standby`).
    standby_module: str = ""
    # It allocates all that a replica needs when it loads: memory taken ahead makes that faster.
    standby_takes_memory: bool = False


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP call to a replica; `reader` turns the answer's bytes into the client's."""

    path: str
    body: bytes
    reader: "Reader"


class Hints(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway decided for one call beyond the request itself; an adapter honours what its engine can."""

    # None: as the replica was launched. False: without speculation; True: with it, where the replica has it.
    speculate: bool | None = None
    # Keeps the cached prefixes of tenants apart where the engine can; never from the caller.
    cache_salt: str | None = None
    # Text that the client has already got from another replica, and its tokens: the answer goes on behind it.
    sent_text: str = ""
    sent_tokens: int = 0


NO_HINTS = Hints()


class Reader(Protocol):
    """Turns one engine answer into the client's bytes and learns what must be billed.

    The gateway calls `started` once with the engine's status, `feed` with every piece of the body as it
    arrives (cut anywhere), `finished` once at the end of the body. For streamed requests `feed` returns SSE
    bytes to send at once (whole events, possibly none) and `finished` what is still to be sent, mostly b"";
    for others `feed` returns b"" and `finished` the whole JSON body.
    Raises EngineFailed for an answer that is none, and the translated OutpaceError for an engine's refusal.
    """

    @property
    def usage(self) -> Usage:
        """What the engine has reported or the reader counted so far; grows during a stream."""
        ...

    @property
    def finish_reason(self) -> str | None:
        """Why the last choice that ended did so; None before."""
        ...

    @property
    def is_complete(self) -> bool:
        """The terminal event was seen: the answer is whole."""
        ...

    def started(self, status: int, headers: Mapping[bytes, bytes]) -> None: ...

    def feed(self, piece: bytes) -> bytes: ...

    def finished(self) -> bytes: ...


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """How a replica shows that it is up: a path that answers 200, then one real token."""

    path: str
    # Body of a request to `token_path` that must produce at least one token.
    token_path: str
    token_body: bytes
    start_deadline_s: float = 600.0


class Load(msgspec.Struct, frozen=True):
    """What a replica is doing now."""

    running: int
    waiting: int
    kv_used_fraction: float | None = None


class Engine(Protocol):
    """The whole contract of an engine adapter."""

    name: str
    capabilities: Capabilities

    def launch(self, order: LaunchOrder) -> Launch:
        """How to start a replica. Raises InvalidInput for settings that the engine does not know."""
        ...

    def readiness(self, deployment: DeploymentEntry) -> Readiness:
        """How to find out that a replica answers with real tokens."""
        ...

    def call(
        self, request: EngineBound, deployment: DeploymentEntry, request_id: str, hints: Hints = NO_HINTS
    ) -> Call:
        """The engine's form of a parsed request. Raises UnsupportedParameter by name."""
        ...

    @property
    def load_path(self) -> str | None:
        """Path whose body `load` reads; None when the engine has no such figure."""
        ...

    def load(self, body: bytes) -> Load:
        """The load figures in the body of `load_path`. Raises EngineFailed."""
        ...

    def error(self, status: int, body: bytes) -> OutpaceError:
        """An engine's error answer in our terms, without its stack traces."""
        ...
