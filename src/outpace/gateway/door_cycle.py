"""One request and its answer on a connection: the body whole, the answer in as few writes as possible."""

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Any, Protocol

from outpace.gateway.door_head import Head, Headers
from outpace.gateway.openai.errors import error_body, error_headers
from outpace.values.errors import OutpaceError, Overloaded

_log = logging.getLogger("outpace.door")

Message = dict[str, Any]
Scope = dict[str, Any]
App = Callable[..., Any]

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"
_SSE_COMMENT = b": keep-alive\n\n"
# What the door itself decides about the answer; an ASGI app's own are dropped.
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection", b"date"})
_EMPTY_STATUSES = frozenset({204, 304})


class Line(Protocol):
    """What a cycle needs of its connection."""

    @property
    def is_writable(self) -> bool:
        """False while the client reads slower than we write."""
        ...

    def status_line(self, status: int) -> bytes:
        """First line of an answer, with what every answer carries."""
        ...

    def write(self, octets: bytes) -> None:
        """Hand bytes to the transport."""
        ...

    async def writable(self) -> None:
        """Return when the transport takes bytes again or the connection is lost."""
        ...

    def stays_open(self, cycle: "Cycle") -> bool:
        """Whether the connection can serve another request after this answer."""
        ...

    def answered(self, cycle: "Cycle") -> None:
        """The answer is written to its last byte."""
        ...

    def abort(self) -> None:
        """Cut the connection."""
        ...


class Cycle:
    """A request's body and answer.

    Use `respond` once, or `start_stream`, any number of `write_chunk`, and `end_stream`. After the client has
    left, all of them do nothing. `receive` and `send` serve plain ASGI apps.
    """

    __slots__ = (
        "_body",
        "_body_error",
        "_content_bytes",
        "_first_part",
        "_head",
        "_is_body_given",
        "_is_chunked",
        "_is_empty_answer",
        "_last",
        "_line",
        "_parts",
        "_started",
        "_waiter",
        "_watchers",
        "awaits_continue",
        "content_type",
        "is_answered",
        "is_disconnected",
        "is_http11",
        "is_started",
        "keep_alive",
        "num_chunks",
        "received_bytes",
        "request_id",
        "scope",
    )

    def __init__(
        self,
        line: Line,
        scope: Scope,
        head: Head,
        *,
        keep_alive: bool,
    ) -> None:
        self._line = line
        self.scope = scope
        self.is_http11 = head.is_http11
        self.content_type = head.content_type
        self._content_bytes = head.content_bytes
        self.awaits_continue = head.awaits_continue
        # False: the connection closes after this answer.
        self.keep_alive = keep_alive
        # Of the door's own answers, unless the app sets one; an app's answer carries what its headers say.
        self.request_id: str | None = None
        self.is_disconnected = False
        self.is_started = False
        self.is_answered = False
        self.received_bytes = 0
        self.num_chunks = 0
        self._first_part = b""
        self._parts: bytearray | None = None
        self._body: bytes | None = None
        self._body_error: OutpaceError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._watchers: list[Callable[[], None]] = []
        self._head: bytes | None = None
        self._last = b""
        self._is_chunked = False
        self._is_empty_answer = scope["method"] == "HEAD"
        self._started: tuple[int, Headers] | None = None
        self._is_body_given = False

    # -- the request

    @property
    def body(self) -> bytes | None:
        """The whole body, or None while it is arriving."""
        return self._body

    async def whole_body(self) -> bytes | None:
        """The body when its last byte is here; None when the client left before.

        Raises RequestTooLarge, RequestTimedOut, Overloaded or InvalidInput when the body was refused on its way.
        """
        if self._body is not None:
            return self._body
        if self._body_error is None and not self.is_disconnected:
            await self._wait_for_body()
        if self._body_error is not None:
            raise self._body_error
        return self._body

    async def _wait_for_body(self) -> None:
        if self.awaits_continue and not self.is_started:
            self.awaits_continue = False
            self._line.write(_CONTINUE)
        await self._wait()

    async def _wait(self) -> None:
        if self._waiter is None or self._waiter.done():
            self._waiter = asyncio.get_running_loop().create_future()
        # Shielded: a second waiter must not be cancelled with the first.
        await asyncio.shield(self._waiter)

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the client is gone before its answer is whole; at once if it is gone already."""
        if self.is_disconnected:
            callback()
            return
        self._watchers.append(callback)

    # -- the answer

    @property
    def is_paused(self) -> bool:
        """The client reads slower than we write: `await drain()` before writing more."""
        return not self._line.is_writable

    async def drain(self) -> None:
        """Return when the client has read enough, or is gone."""
        await self._line.writable()

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Write the whole answer at once; the length is added here."""
        if self.is_disconnected:
            return
        self._start()
        head = [self._line.status_line(status), *[b"%b: %b\r\n" % field for field in headers]]
        if status not in _EMPTY_STATUSES:
            head.append(b"content-length: %d\r\n" % len(body))
        head.append(self._end_of_head())
        if not self._is_empty_answer and status not in _EMPTY_STATUSES:
            head.append(body)
        self._line.write(b"".join(head))
        self._finish()

    def start_stream(self, status: int, headers: Headers) -> None:
        """Begin an answer of unknown length; its head goes out together with the first chunk."""
        if self.is_disconnected:
            return
        self._start()
        self._is_empty_answer = self._is_empty_answer or status in _EMPTY_STATUSES
        self._is_chunked = self.is_http11 and not self._is_empty_answer
        if not self.is_http11:
            self.keep_alive = False
        head = [self._line.status_line(status), *[b"%b: %b\r\n" % field for field in headers]]
        if self._is_chunked:
            head.append(b"transfer-encoding: chunked\r\n")
        head.append(self._end_of_head())
        self._head = b"".join(head)

    def write_chunk(self, octets: bytes) -> None:
        """Send a piece of a stream now."""
        if self.is_disconnected or not octets:
            return
        self._require_stream()
        self._last = octets
        self._send(self._framed(octets))

    def end_stream(self, octets: bytes = b"") -> None:
        """End the stream, after a last piece if there is one."""
        if self.is_disconnected:
            return
        self._require_stream()
        last = self._framed(octets) if octets else b""
        self._send(last + b"0\r\n\r\n" if self._is_chunked else last)
        self._finish()

    def abort(self) -> None:
        """Cut the connection, so that a client cannot take what it has for the whole answer."""
        if not self.is_answered:
            self._line.abort()

    def refuse(self, error: OutpaceError) -> None:
        """Answer with the error's envelope; cuts the connection when an answer has begun."""
        if self.is_started:
            self.abort()
            return
        self.respond(error.status, refusal_headers(error, self.request_id), error_body(error))

    # -- the door's side

    def can_skip_rest(self, most_bytes: int) -> bool:
        """The rest of the body is known to come soon and to be at most `most_bytes`."""
        if self._content_bytes is None or self.awaits_continue:
            return False
        return self._content_bytes - self.received_bytes <= most_bytes

    def take_part(self, octets: bytes) -> None:
        """A piece of the body has arrived."""
        if self.received_bytes == 0:
            self._first_part = octets
        else:
            if self._parts is None:
                self._parts = bytearray(self._first_part)
            self._parts += octets
        self.received_bytes += len(octets)

    def end_body(self) -> None:
        """The last byte of the body has arrived."""
        self._body = self._first_part if self._parts is None else bytes(self._parts)
        self._forget_parts()
        self._wake()

    def fail_body(self, error: OutpaceError) -> None:
        """The body will never be whole; whoever waits for it gets the error."""
        self.keep_alive = False
        self._body_error = error
        self._forget_parts()
        self._wake()

    def lose(self) -> None:
        """The client is gone."""
        self._forget_parts()
        if self.is_answered:
            return
        self.is_disconnected = True
        self._wake()
        watchers, self._watchers = self._watchers, []
        for callback in watchers:
            callback()

    def probe(self) -> None:
        """Send something that a living client ignores, so that a dead one's kernel answers with a reset."""
        if self.is_answered or self.is_disconnected:
            return
        if not self.is_started:
            if self.is_http11:
                self._line.write(_PROCESSING)
        elif self._is_chunked and self._head is None and self._last.endswith(b"\n\n"):
            self._send(self._framed(_SSE_COMMENT))

    async def run(self, app: App) -> None:
        """Let the app answer; whatever it does, the client gets an answer or a cut connection."""
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            self._give_up(Overloaded("The server is stopping; try again.", retry_after_s=1))
            raise
        except Exception:  # the door: an app that fails must not leave its client hanging
            _log.exception("The app failed on %s", self.scope["path"])
            self._give_up(OutpaceError("Something broke inside the gateway; its log has the cause."))
            return
        if not self.is_answered and not self.is_disconnected:
            _log.error("The app left %s without a whole answer", self.scope["path"])
            self._give_up(OutpaceError("The gateway had no answer; its log has the cause."))

    # -- plain ASGI

    async def receive(self) -> Message:
        """ASGI's receive: the whole body in one event, then the disconnect."""
        if not self._is_body_given:
            self._is_body_given = True
            try:
                body = await self.whole_body()
            except OutpaceError as error:
                self.refuse(error)
                self.is_disconnected = True
                body = None
            if body is not None:
                return {"type": "http.request", "body": body, "more_body": False}
        while not (self.is_disconnected or self.is_answered):
            await self._wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """ASGI's send."""
        if message["type"] == "http.response.start":
            self._started = (message["status"], self._without_framing(message.get("headers", ())))
            return
        if self.is_disconnected:
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if not self.is_started:
            if self._started is None:
                raise RuntimeError(f"http.response.start must come before {message['type']}")
            status, headers = self._started
            if not more:
                self.respond(status, headers, body)
                return
            self.start_stream(status, headers)
        if not more:
            self.end_stream(body)
            return
        self.write_chunk(body)
        await self.drain()

    def _without_framing(self, headers: Any) -> Headers:
        kept = []
        for name, value in headers:
            if name.lower() not in _FRAMING:
                kept.append((bytes(name), bytes(value)))
            elif name.lower() == b"connection" and b"close" in value.lower():
                self.keep_alive = False
        return kept

    # -- inside

    def _start(self) -> None:
        if self.is_started:
            raise RuntimeError("this request has been answered already")
        self.is_started = True
        self.keep_alive = self._line.stays_open(self)

    def _end_of_head(self) -> bytes:
        return b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n"

    def _require_stream(self) -> None:
        if not self.is_started or self.is_answered:
            raise RuntimeError("no stream is open")

    def _framed(self, octets: bytes) -> bytes:
        if self._is_chunked:
            return b"%x\r\n%b\r\n" % (len(octets), octets)
        return b"" if self._is_empty_answer else octets

    def _send(self, octets: bytes) -> None:
        if self._head is not None:
            octets, self._head = self._head + octets, None
        if octets:
            self._line.write(octets)

    def _finish(self) -> None:
        self.is_answered = True
        self._watchers = []
        self._wake()
        self._line.answered(self)

    def _forget_parts(self) -> None:
        self._first_part = b""
        self._parts = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _give_up(self, error: OutpaceError) -> None:
        if not self.is_disconnected and not self.is_answered:
            self.refuse(error)


def refusal_headers(error: OutpaceError, request_id: str | None = None) -> Headers:
    """Headers of an error that no app has seen, with a request id of its own unless one is known."""
    request_id = request_id or "req-" + secrets.token_hex(12)
    return [
        (b"content-type", b"application/json"),
        (b"x-request-id", request_id.encode()),
        *error_headers(error),
    ]
