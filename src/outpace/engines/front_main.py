"""A door of ours before a server that has none: our socket and token outside, its loopback port inside.

SGLang, TensorRT-LLM and Triton listen on ports, and two of them know no key. This process starts the server on a free
loopback port, passes requests of callers with the token, and ends with the server. Any program of this machine could
still reach that port: give such a server a machine, or a container, without other users.
"""

import asyncio
import contextlib
import hmac
import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import aiohttp
from aiohttp import web

from outpace.engines import child
from outpace.engines.checkpoint_weights import checkpoint_folder
from outpace.engines.front_config import FrontConfig
from outpace.values.errors import OutpaceError

_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding"}
)
_GRACE_S = 20.0


class Front:
    """Passes requests on: one session to the server, whose answers are streamed as they come."""

    def __init__(self, port: int, token: str, is_key_shared: bool) -> None:
        self._is_key_shared = is_key_shared
        self._base = f"http://127.0.0.1:{port}"
        self._expected = f"Bearer {token}".encode()
        self._session: aiohttp.ClientSession | None = None

    async def open(self, _: web.Application) -> None:
        """Start the session within the running loop."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5.0)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))

    async def close(self, _: web.Application) -> None:
        """End the session."""
        if self._session is not None:
            await self._session.close()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request: 401 without the token, 503 while the server is not up."""
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, self._expected):
            return web.json_response({"error": {"message": "wrong token", "type": "auth"}}, status=401)
        assert self._session is not None
        headers = {"content-type": request.headers.get("content-type", "application/json")}
        if self._is_key_shared:
            headers["authorization"] = self._expected.decode()
        try:
            async with self._session.request(
                request.method, self._base + request.path_qs, data=await request.read(), headers=headers
            ) as answer:
                return await self._passed(request, answer)
        except aiohttp.ClientConnectorError:
            return web.json_response({"error": {"message": "the server is not up yet"}}, status=503)

    async def _passed(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        shown = web.StreamResponse(status=answer.status, headers=_kept(answer.headers))
        await shown.prepare(request)
        async for piece in answer.content.iter_any():
            await shown.write(piece)
        await shown.write_eof()
        return shown


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _HOP_BY_HOP}


async def serve(config: FrontConfig, token: str) -> int | None:
    """Run server and front until SIGTERM (None) or until the server ends by itself (its exit status)."""
    port = _free_port()
    argv = _argv(config, port, token)
    try:
        server = await asyncio.create_subprocess_exec(*argv, stdin=asyncio.subprocess.DEVNULL)
    except OSError as error:
        child.fail("engine_missing", f"{argv[0]} cannot be run ({error.strerror}); {config.missing}")
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    runner = await _listen(config, port, token)
    waits = [asyncio.ensure_future(asked.wait()), asyncio.ensure_future(server.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    ended = server.returncode
    for wait in waits:
        wait.cancel()
    await _end(server)
    await runner.cleanup()
    _key_file(config).unlink(missing_ok=True)
    return ended


def _argv(config: FrontConfig, port: int, token: str) -> list[str]:
    python = os.environ.get(config.python_env) if config.python_env else None
    places = {"{port}": str(port), "{python}": python or sys.executable, "{weights}": _weights(config)}
    argv = [places.get(word, word) for word in config.argv]
    if not config.takes_key_file:
        return argv
    key_file = _key_file(config)
    key_file.touch(mode=0o600)
    key_file.write_text(f'api-key: "{token}"\n')
    return [*argv, "--config", str(key_file)]


def _key_file(config: FrontConfig) -> Path:
    return Path(f"{config.socket_path}.yaml")


def _weights(config: FrontConfig) -> str:
    if not config.weights:
        return ""
    try:
        return str(checkpoint_folder(Path(config.weights), config.model, config.artifacts_dir))
    except OutpaceError as error:
        child.fail(error.code or "weights_invalid", error.message)


async def _listen(config: FrontConfig, port: int, token: str) -> web.AppRunner:
    front = Front(port, token, config.takes_key_file)
    app = web.Application(client_max_size=1 << 30)
    app.on_startup.append(front.open)
    app.on_cleanup.append(front.close)
    app.router.add_route("*", "/{path:.*}", front.handle)
    # A caller that leaves takes its request with it.
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, config.socket_path).start()
    return runner


async def _end(server: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        server.terminate()
    try:
        await asyncio.wait_for(server.wait(), _GRACE_S)
    except TimeoutError:
        server.kill()
        await server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """The process."""
    config = child.read_config(FrontConfig)
    token = child.take_token()
    child.clear_socket(config.socket_path)
    os.umask(0o077)
    status = asyncio.run(serve(config, token))
    if status is not None:
        child.fail("engine_ended", f"{config.argv[0]} ended with status {status}; {config.missing}")


if __name__ == "__main__":
    main()
