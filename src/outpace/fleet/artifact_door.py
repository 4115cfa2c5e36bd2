"""Sends artifacts to the machines of a pool: by SHA-256, in ranges, behind a token.

The files are served on a Unix socket; the only port is that of a `Relay`, which lets nobody in without the token and
gives a head ten seconds. Nothing but what was offered is reached, and no path comes from outside.
"""

import secrets
from collections.abc import Iterable
from pathlib import Path

from aiohttp import web

from outpace.fleet.artifacts import Artifact, Source, path_of
from outpace.fleet.relay import Relay

_SOCKET = "artifacts.sock"


class ArtifactDoor:
    """The door of one pool; it opens with the first offer."""

    def __init__(self, sockets: Path, host: str) -> None:
        self._socket = sockets / _SOCKET
        self._host = host
        self._offered: dict[str, Path] = {}
        self._relay = Relay()
        self._runner: web.AppRunner | None = None
        self._source: Source | None = None

    async def offer(self, artifacts: Iterable[Artifact]) -> Source:
        """From now on the files of these hashed artifacts are sent; where to ask for them."""
        for artifact in artifacts:
            for piece in artifact.pieces:
                self._offered[piece.sha256] = path_of(Path(artifact.path), artifact, piece)
        if self._source is None:
            self._source = await self._open()
        return self._source

    async def close(self) -> None:
        """Cut what is under way."""
        self._relay.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _open(self) -> Source:
        app = web.Application()
        app.router.add_get("/{sha256}", self._send)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        self._socket.unlink(missing_ok=True)
        await web.UnixSite(self._runner, str(self._socket)).start()
        self._socket.chmod(0o600)
        token = secrets.token_urlsafe(24)
        self._relay.point(str(self._socket), token)
        return Source(url=await self._relay.open(self._host), token=token)

    async def _send(self, request: web.Request) -> web.StreamResponse:
        path = self._offered.get(request.match_info["sha256"])
        if path is None or not path.is_file():
            return web.Response(status=404, text="no such file is offered")
        return web.FileResponse(path)
