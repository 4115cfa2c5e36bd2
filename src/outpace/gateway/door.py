"""The HTTP/1.1 connection of the gateway: uvicorn's server and parser, our rules for clients that misbehave.

A `Door` is what `uvicorn.Config(http=…)` takes. Each request becomes a `Cycle`, found by the app in
`scope["outpace.cycle"]`. At any time a connection awaits one thing, and one sweep per worker looks for those
that have waited too long, so that a request costs no timer.
"""

import asyncio
from collections import deque
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from outpace.gateway.door_cycle import Cycle, Scope, refusal_headers
from outpace.gateway.door_head import Head, Headers
from outpace.gateway.door_intake import EnoughPipelined, Intake
from outpace.gateway.door_limits import DoorLimits
from outpace.gateway.door_sweep import NEVER_S, Awaits, DoorState
from outpace.gateway.openai.errors import error_body
from outpace.values.errors import OutpaceError, Overloaded, RequestTimedOut

__all__ = ["Cycle", "Door", "DoorLimits", "door"]

_SECOND_PROBE_S = 0.05


class Door(asyncio.Protocol):
    """One client connection; made by uvicorn's server through a class that `door` returned."""

    state: DoorState

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not config.loaded:
            config.load()
        self._app = config.loaded_app
        self._asgi = {"version": config.asgi_version, "spec_version": "2.3"}
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._server_state = server_state
        self._connections = cast("set[Door]", server_state.connections)
        self._limits = self.state.limits
        self._intake = Intake(self, self.state)
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._client: tuple[str, int] | None = None
        self._writable: asyncio.Event | None = None
        # The request being answered, those waiting behind it, and bytes not parsed yet.
        self._current: Cycle | None = None
        self._queue: deque[Cycle] = deque()
        self._held = bytearray()
        # How it ends: nothing more is parsed; a last refusal waits for its turn; nothing follows the last answer.
        self._is_deaf = False
        self._parting: OutpaceError | None = None
        self._is_ending = False
        self._probe_timer: asyncio.TimerHandle | None = None
        # For the sweep.
        self._awaits = Awaits.REQUEST
        self._body_since_s = 0.0
        self._unread_bytes = 0
        self.deadline_s = NEVER_S
        self.stall_s = NEVER_S

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self._client = (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) else None
        self._connections.add(self)
        is_welcome = self.state.enter(self, self._loop)
        self._await(Awaits.REQUEST, self._limits.header_deadline_s)
        if is_welcome:
            return
        if self.state.is_crowded_out:
            self._transport.abort()
            return
        self._refuse(Overloaded("Too many connections; try again.", retry_after_s=1))

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, by whosever hand."""
        self._connections.discard(self)
        self.state.leave(self)
        self._intake.end()
        if self._probe_timer is not None:
            self._probe_timer.cancel()
        self.resume_writing()
        cycles = (self._current, *self._queue)
        self._queue.clear()
        for cycle in cycles:
            if cycle is not None:
                cycle.lose()

    def data_received(self, data: bytes) -> None:
        """Bytes from the client: parsed, unless an earlier request is still being answered."""
        if self._is_deaf:
            return
        if self._current is None or self._intake.arriving is self._current:
            self._feed(data)
            return
        self._held += data
        if len(self._held) > self._limits.max_held_bytes:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """The client sends no more. True keeps our side open: it may still read its answer."""
        current = self._current
        if current is None or current.is_answered or self._intake.arriving is current:
            return False
        # TLS has no half-closed connections.
        if self._transport.get_extra_info("sslcontext") is not None:
            return False
        self._is_ending = True
        self._probe_timer = self._loop.call_later(self._limits.half_close_s, self._probe, 1)
        return True

    def pause_writing(self) -> None:
        """The client reads slower than we write."""
        self._writable = asyncio.Event()
        self._unread_bytes = self._transport.get_write_buffer_size()
        self.stall_s = self._loop.time() + self._limits.write_stall_s

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.stall_s = NEVER_S
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    # -- uvicorn's side

    def shutdown(self) -> None:
        """Close now when idle, else after the running answers."""
        self._is_ending = True
        if self._current is None or self._current.is_answered:
            self._close()

    # -- the intake's side

    def may_begin(self) -> bool:
        """Whether one more request may be sent ahead."""
        return len(self._queue) < self._limits.max_pipelined

    def begin(self, head: Head, headers: Headers, method: str, is_reusable: bool) -> Cycle:
        """A head is whole: start the app, or queue the request behind the running one."""
        scope: Scope = {
            "type": "http",
            "asgi": self._asgi,
            "http_version": "1.1" if head.is_http11 else "1.0",
            "method": method,
            "scheme": "http",
            "path": head.path,
            "raw_path": head.raw_path,
            "query_string": head.query,
            "root_path": "",
            "headers": headers,
            "client": self._client,
            "server": None,
            "state": self._app_state,
        }
        cycle = Cycle(self, scope, head, keep_alive=head.is_http11 and is_reusable)
        scope["outpace.cycle"] = cycle
        if self._current is None:
            self._start(cycle)
        else:
            self._queue.append(cycle)
        return cycle

    def received(self, cycle: Cycle) -> None:
        """A request is whole; when it was answered before that, its turn ends here."""
        if cycle is self._current and cycle.is_answered:
            self._current = None

    # -- the cycle's side

    @property
    def is_writable(self) -> bool:
        """False while the client reads slower than we write."""
        return self._writable is None

    async def writable(self) -> None:
        """Return when the transport takes bytes again or the connection is lost."""
        if self._writable is not None:
            await self._writable.wait()

    def status_line(self, status: int) -> bytes:
        """First line of an answer, with what every answer carries."""
        return self.state.status_line(status, self._server_state.default_headers)

    def write(self, octets: bytes) -> None:
        """Hand bytes to the transport."""
        if not self._transport.is_closing():
            self._transport.write(octets)

    def abort(self) -> None:
        """Cut the connection."""
        self._transport.abort()

    def stays_open(self, cycle: Cycle) -> bool:
        """Whether the connection can serve another request after this answer."""
        if not cycle.keep_alive:
            return False
        if self._is_ending and not self._queue and not self._held:
            return False
        return cycle is not self._intake.arriving or cycle.can_skip_rest(self._limits.max_skipped_bytes)

    def answered(self, cycle: Cycle) -> None:
        """The answer is written to its last byte."""
        self._server_state.total_requests += 1
        if not cycle.keep_alive:
            self._close()
        elif cycle is not self._intake.arriving:
            self._current = None
            self._proceed()

    # -- requests, one after the other

    def _feed(self, data: bytes) -> None:
        error = self._intake.feed(data)
        if error is None:
            self._rearm()
        elif isinstance(error, EnoughPipelined):
            self._is_deaf = self._is_ending = True
            self._rearm()
        else:
            self._refuse(error)

    def _start(self, cycle: Cycle) -> None:
        self._current = cycle
        task = self._loop.create_task(cycle.run(self._app))
        tasks = self._server_state.tasks
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def _proceed(self) -> None:
        """An answer is out: take up what the client sent meanwhile."""
        if self._transport.is_closing():
            return
        if self._queue:
            self._start(self._queue.popleft())
        elif self._parting is not None:
            self._part(self._parting)
            return
        elif self._held and not self._is_deaf:
            held, self._held = bytes(self._held), bytearray()
            self._transport.resume_reading()
            self._feed(held)
            return
        elif self._is_ending:
            self._close()
            return
        self._rearm()

    def _rearm(self) -> None:
        """Find out what the connection awaits now, and until when."""
        current = self._current
        if current is None:
            if self._intake.is_in_head:
                self._await(Awaits.HEAD, self._limits.header_deadline_s)
            elif self._is_ending:
                self._close()
            else:
                self._await(Awaits.IDLE, self._limits.idle_s)
        elif self._intake.arriving is current:
            if self._awaits is not Awaits.BODY:
                self._body_since_s = self._loop.time()
            self._await(Awaits.BODY, self._limits.body_grace_s)
        else:
            self._await(Awaits.ANSWER, NEVER_S)

    def _await(self, awaits: Awaits, deadline_s: float) -> None:
        """Wait for something; to wait on for the same thing does not move its deadline."""
        if self._awaits is awaits and self.deadline_s is not NEVER_S:
            return
        self._awaits = awaits
        self.deadline_s = deadline_s if deadline_s is NEVER_S else self._loop.time() + deadline_s

    # -- what goes wrong

    def overdue(self, now_s: float) -> None:
        """Called by the sweep when a deadline has passed."""
        if now_s >= self.stall_s:
            self._overdue_reader(now_s)
        elif self._awaits is Awaits.CLOSE:
            # While bytes are left that the client does read, the stall decides.
            if self._writable is None or self._is_deaf:
                self._transport.abort()
        elif self._awaits is Awaits.BODY:
            self._overdue_body(now_s)
        elif self._awaits is Awaits.HEAD:
            self._refuse(RequestTimedOut("The request's head came too slowly; send it at once."))
        else:
            self._close()

    def _overdue_reader(self, now_s: float) -> None:
        unread_bytes = self._transport.get_write_buffer_size()
        fair_bytes = self._limits.write_stall_s * self._limits.body_min_bytes_per_s
        if self._unread_bytes - unread_bytes < fair_bytes:
            self._transport.abort()
            return
        self._unread_bytes = unread_bytes
        self.stall_s = now_s + self._limits.write_stall_s

    def _overdue_body(self, now_s: float) -> None:
        cycle, limits = self._intake.arriving, self._limits
        received_bytes = cycle.received_bytes if cycle is not None else 0
        earned_s = limits.body_grace_s + received_bytes / limits.body_min_bytes_per_s
        deadline_s = self._body_since_s + min(earned_s, limits.body_deadline_s)
        if now_s < deadline_s:
            self.deadline_s = deadline_s
            return
        self._refuse(RequestTimedOut("The body came too slowly; send it faster or in one piece."))

    def _refuse(self, error: OutpaceError) -> None:
        """Stop reading, and tell the client why: through the app when it has the request, else from here."""
        self._is_deaf = True
        self._held.clear()
        self.state.num_refused += 1
        cycle, self._intake.arriving = self._intake.arriving, None
        if cycle is not None:
            cycle.fail_body(error)
            if cycle.is_answered:
                self._close()
                return
        elif self._current is None:
            self._part(error)
            return
        else:
            self._parting = error
        self._await(Awaits.ANSWER, NEVER_S)

    def _part(self, error: OutpaceError) -> None:
        head = [self.status_line(error.status), *[b"%b: %b\r\n" % field for field in refusal_headers(error)]]
        body = error_body(error)
        self.write(b"".join([*head, b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body), body]))
        self._linger()

    # -- how it ends

    def _close(self) -> None:
        if self._is_deaf or self._intake.arriving is not None or self._held:
            self._linger()
            return
        self._transport.close()
        self._await(Awaits.CLOSE, self._limits.write_stall_s)

    def _linger(self) -> None:
        """End our side, and read on for a moment: closing on unread bytes would reset the answer away."""
        self._is_deaf = True
        if self._transport.is_closing() or self._awaits is Awaits.CLOSE:
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._transport.resume_reading()
        self._await(Awaits.CLOSE, self._limits.linger_s)

    def _probe(self, num: int) -> None:
        """Look whether a half-closed client is alive.

        The first write makes a dead one's kernel answer with a reset, the second one runs into it.
        """
        if self._current is None or self._transport.is_closing():
            return
        self._current.probe()
        wait_s = _SECOND_PROBE_S if num % 2 else self._limits.half_close_again_s
        self._probe_timer = self._loop.call_later(wait_s, self._probe, num + 1)


def door(limits: DoorLimits) -> type[Door]:
    """The protocol class of one worker, for `uvicorn.Config(http=…)`."""
    return type("Door", (Door,), {"state": DoorState(limits)})
