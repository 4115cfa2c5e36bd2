"""The admin door's socket and server; the only file of control that knows uvicorn."""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Iterator

import uvicorn

from outpace.control.guard import App
from outpace.values.errors import InvalidInput

_END_S = 3


class AdminServer:
    """Serves an ASGI app on one address until told to end."""

    def __init__(self, app: App, host: str, port: int) -> None:
        config = uvicorn.Config(
            app,
            loop="none",
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=_END_S,
            backlog=128,
        )
        self._server = _Server(config)
        self._socket = _listen(host, port)

    async def serve(self) -> None:
        """Serve until `end`; then finish the requests that run."""
        await self._server.serve(sockets=[self._socket])

    def end(self) -> None:
        """Stop accepting; `serve` returns when the running requests are done."""
        self._server.should_exit = True


def is_loopback(host: str) -> bool:
    """Only this machine reaches a server at this address."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


async def wait_for(task: "asyncio.Task[None]", deadline_s: float) -> None:
    """Wait for a server's end, but not for ever."""
    with contextlib.suppress(TimeoutError, asyncio.CancelledError):
        await asyncio.wait_for(task, deadline_s)


class _Server(uvicorn.Server):
    """Signals are the service's, not the server's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise InvalidInput("admin_port", f"cannot listen at {host}:{port} ({error.strerror})") from error
    return listening
