"""The echo engine's process: OpenAI-style HTTP on a Unix socket or a port, made to hold thousands of streams.

Run as `python -m outpace.engines.echo_server --config '{"address":"http://127.0.0.1:9000"}'`. `/stats` counts what
happened; `/health` needs no token. One timer serves all streams: the earliest due stream arms it.
"""

import asyncio
import contextlib
import hmac
import os
import signal
from collections import deque
from typing import cast
from urllib.parse import urlsplit

import httptools
import msgspec
import uvloop

from outpace.engines import child
from outpace.engines.echo_stream import Stats, Stream, StreamQueue
from outpace.engines.echo_wire import Answer
from outpace.engines.echo_words import (
    Body,
    Plan,
    Switches,
    embeddings,
    plan_chat,
    plan_completions,
)
from outpace.engines.responses import error_body, json_response
from outpace.values.clock import SystemClock
from outpace.values.errors import ContextTooLong, OutpaceError

_CLOCK = SystemClock()
_BODY = msgspec.json.Decoder(Body)
_PLANS = {"/v1/chat/completions": plan_chat, "/v1/completions": plan_completions}


class EchoConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the process is told: where to listen, as which model, with which switches."""

    # `unix:/path` or `http://127.0.0.1:PORT`.
    address: str
    model: str = "echo"
    switches: Switches = Switches()


class EchoServer:
    """State of the process: switches, counters, and the streams."""

    def __init__(self, config: EchoConfig, token: str) -> None:
        self.config = config
        self.stats = Stats()
        self.streams = StreamQueue(asyncio.get_running_loop(), config.switches.parallel, self.stats)
        self._expected = f"Bearer {token}".encode() if token else None

    def is_allowed(self, authorization: bytes) -> bool:
        """The caller knows the replica's token."""
        return self._expected is None or hmac.compare_digest(authorization, self._expected)

    def answer(self, path: str, raw: bytes) -> "bytes | Answer":
        """A finished response, or an answer still to be spoken."""
        if path == "/stats":
            return json_response(200, msgspec.json.encode(self.stats))
        if path == "/v1/models":
            model = {"id": self.config.model, "object": "model", "created": 0, "owned_by": "echo"}
            return json_response(200, msgspec.json.encode({"object": "list", "data": [model]}))
        self.stats.requests += 1
        try:
            return self._generated(path, _BODY.decode(raw))
        except msgspec.DecodeError as error:
            return json_response(400, error_body(str(error), None))
        except ContextTooLong as error:
            return json_response(400, error_body(error.message, error.code))
        except OutpaceError as error:
            return json_response(error.status, error_body(error.message, error.code))

    def _generated(self, path: str, body: Body) -> "bytes | Answer":
        if path == "/v1/embeddings":
            return self._embedded(body)
        if path not in _PLANS:
            return json_response(404, error_body(f"no path {path}", "not_found"))
        plan = _PLANS[path](body, self.config.switches)
        refusal = _misbehaved(plan)
        if refusal:
            return refusal
        is_chat = path == "/v1/chat/completions"
        return Answer(plan, body, is_chat, self.stats.requests, int(_CLOCK.wall_s()), self.config.model)

    def _embedded(self, body: Body) -> bytes:
        vectors, num_tokens = embeddings(body)
        rows = [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
        self.stats.completed += 1
        answer = {"object": "list", "data": rows, "model": self.config.model, "usage": usage}
        return json_response(200, msgspec.json.encode(answer))


def _misbehaved(plan: Plan) -> bytes | None:
    switches = plan.switches
    if switches.crash:
        os._exit(70)
    if switches.garbage:
        return json_response(500, b"<html><body><h1>Internal Server Error</h1></body></html>", b"text/html")
    if switches.error_status:
        return json_response(switches.error_status, error_body("echo was told to fail", "echo_error"))
    return None


class EchoConnection(asyncio.Protocol):
    """One client connection: parses requests, answers them one after the other."""

    def __init__(self, server: EchoServer) -> None:
        self._server = server
        self._waiting: deque[tuple[str, bytes, bytes]] = deque()
        self._stream: Stream | None = None
        self._is_closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's classes.
        self.transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)
        self._server.stats.connections += 1

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.write(json_response(400, error_body("not HTTP", None)))
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.stats.connections -= 1
        if self._stream:
            self._server.streams.cancel(self._stream)
        self._waiting.clear()

    def pause_writing(self) -> None:
        if self._stream:
            self._stream.is_paused = True

    def resume_writing(self) -> None:
        if self._stream:
            self._stream.is_paused = False

    def on_message_begin(self) -> None:
        self._url, self._authorization, self._body = b"", b"", bytearray()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"authorization":
            self._authorization = value

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self._waiting.append((self._url.decode("latin-1"), self._authorization, bytes(self._body)))
        self._next()

    def _next(self) -> None:
        while self._waiting and not self._stream and not self._is_closing:
            url, authorization, body = self._waiting.popleft()
            self._respond(urlsplit(url).path, authorization, body)

    def _respond(self, path: str, authorization: bytes, body: bytes) -> None:
        if path == "/health":
            self.transport.write(json_response(200, b'{"status":"ok"}'))
            return
        if not self._server.is_allowed(authorization):
            self.transport.write(json_response(401, error_body("unknown token", "invalid_api_key")))
            return
        answer = self._server.answer(path, body)
        if isinstance(answer, bytes):
            self.transport.write(answer)
            return
        self._stream = Stream(answer, self.transport, self._ended)
        self._server.streams.start(self._stream)

    def _ended(self) -> None:
        self._stream = None
        self._next()


async def serve(config: EchoConfig, token: str) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(config.switches.slow_start_ms / 1000)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    state = EchoServer(config, token)
    listener = await _listen(loop, state, config.address)
    child.phases.ended("load")
    child.tell_listening(config.address)
    await stopped.wait()
    listener.close()
    if config.address.startswith("unix:"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(config.address.removeprefix("unix:"))


async def _listen(loop: asyncio.AbstractEventLoop, state: EchoServer, address: str) -> asyncio.Server:
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        child.clear_socket(path)
        return await loop.create_unix_server(lambda: EchoConnection(state), path, backlog=4096)
    url = urlsplit(address)
    return await loop.create_server(lambda: EchoConnection(state), url.hostname, url.port or 0, backlog=4096)


def main() -> None:
    """Read the configuration, serve, and say in one line why not."""
    child.phases.ended("import")
    config = child.read_config(EchoConfig)
    if config.switches.crash_on_start:
        child.fail("crash_on_start", "echo was told to crash on start")
    try:
        uvloop.run(serve(config, child.take_token()))
    except OSError as error:
        child.fail("cannot_listen", f"{config.address}: {error}")


if __name__ == "__main__":
    main()
