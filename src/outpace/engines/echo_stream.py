"""Answers of the echo engine in time: one timer for all of them."""

import asyncio
import heapq
import os
from collections import deque
from collections.abc import Callable

import msgspec

from outpace.engines.echo_wire import Answer
from outpace.engines.responses import STREAM_END, STREAM_HEAD, chunk, error_body, json_response

# Streams due within this time share one wake-up.
_SLACK_S = 0.002
# Tokens that a stream without interval sends per turn of the loop.
_BURST_TOKENS = 32
_PAUSE_S = 0.01


class Stats(msgspec.Struct):
    """What happened since the start; `running` and `connections` are the present."""

    requests: int = 0
    completed: int = 0
    cancelled: int = 0
    failed: int = 0
    running: int = 0
    waiting: int = 0
    connections: int = 0
    tokens: int = 0


class Stream:
    """One answer on its way to one connection."""

    def __init__(self, answer: Answer, transport: asyncio.Transport, ended: Callable[[], None]) -> None:
        self.answer = answer
        self.transport = transport
        self.ended = ended
        self.position = 0
        self.is_paused = False
        self.is_over = False


class StreamQueue:
    """All running streams by due time, and those that wait for a place."""

    def __init__(self, loop: asyncio.AbstractEventLoop, parallel: int, stats: Stats) -> None:
        self._loop = loop
        self._parallel = parallel
        self._stats = stats
        self._due: list[tuple[float, int, Stream]] = []
        self._waiting: deque[Stream] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._order = 0

    def start(self, stream: Stream) -> None:
        """Begin `stream`, or queue it when all places are taken."""
        if self._parallel and self._stats.running >= self._parallel:
            self._waiting.append(stream)
            self._stats.waiting += 1
            return
        self._stats.running += 1
        self._begin(stream)

    def cancel(self, stream: Stream) -> None:
        """The client left: forget the stream at once."""
        self._stats.cancelled += 1
        if stream in self._waiting:
            self._waiting.remove(stream)
            self._stats.waiting -= 1
            stream.is_over = True
            return
        self._free(stream)

    def _begin(self, stream: Stream) -> None:
        switches = stream.answer.plan.switches
        if switches.hang:
            return
        delay_s = switches.delay_ms / 1000
        if not stream.answer.is_stream:
            delay_s += switches.token_interval_ms / 1000 * max(stream.answer.plan.longest - 1, 0)
        if delay_s:
            self._schedule(stream, self._loop.time() + delay_s)
        else:
            self._advance(stream, self._loop.time())

    def _schedule(self, stream: Stream, at: float) -> None:
        self._order += 1
        heapq.heappush(self._due, (at, self._order, stream))
        if self._timer is None or at < self._timer_at:
            self._arm(at)

    def _arm(self, at: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._loop.time()
        ready = []
        while self._due and self._due[0][0] <= now + _SLACK_S:
            ready.append(heapq.heappop(self._due))
        for at, _, stream in ready:
            if not stream.is_over:
                self._advance(stream, at)
        if self._due and self._timer is None:
            self._arm(self._due[0][0])

    def _advance(self, stream: Stream, due_at: float) -> None:
        answer = stream.answer
        if not answer.is_stream:
            self._whole(stream)
            return
        if stream.is_paused:
            self._schedule(stream, self._loop.time() + _PAUSE_S)
            return
        interval_s = answer.plan.switches.token_interval_ms / 1000
        pieces = [] if stream.position else [STREAM_HEAD, chunk(answer.start())]
        for _ in range(1 if interval_s else _BURST_TOKENS):
            if self._broke(stream, pieces):
                return
            pieces.append(answer.step(stream.position))
            stream.position += 1
            if stream.position >= answer.plan.longest:
                self._stats.tokens += answer.plan.completion_tokens
                self._end(stream, [*pieces, answer.end()])
                return
        stream.transport.write(b"".join(pieces))
        # Counted from the due time, not from now: the pace does not drift.
        self._schedule(stream, max(due_at + interval_s, self._loop.time()))

    def _whole(self, stream: Stream) -> None:
        switches, longest = stream.answer.plan.switches, stream.answer.plan.longest
        if switches.crash_after_tokens is not None and switches.crash_after_tokens < longest:
            os._exit(70)
        if switches.hang_after_tokens is not None and switches.hang_after_tokens < longest:
            return
        if switches.error_after_tokens is not None and switches.error_after_tokens < longest:
            self._stats.failed += 1
            self._end(
                stream,
                [json_response(500, error_body("echo was told to fail", "echo_error"))],
                is_failed=True,
            )
            return
        if switches.drop_after_tokens is not None and switches.drop_after_tokens < longest:
            self._drop(stream, [])
            return
        self._stats.tokens += stream.answer.plan.completion_tokens
        self._end(stream, [stream.answer.whole()])

    def _broke(self, stream: Stream, pieces: list[bytes]) -> bool:
        """Do what a switch demands at this position; True when the stream is not to go on."""
        switches, position = stream.answer.plan.switches, stream.position
        if switches.crash_after_tokens == position:
            stream.transport.write(b"".join(pieces))
            self._loop.call_soon(os._exit, 70)
            return True
        if switches.hang_after_tokens == position:
            stream.transport.write(b"".join(pieces))
            return True
        if switches.drop_after_tokens == position:
            self._drop(stream, pieces)
            return True
        if switches.error_after_tokens == position:
            error = chunk(b"data: " + error_body("echo was told to fail", "echo_error") + b"\n\n")
            self._stats.failed += 1
            self._end(stream, [*pieces, error, STREAM_END], is_failed=True)
            return True
        return False

    def _drop(self, stream: Stream, pieces: list[bytes]) -> None:
        self._stats.failed += 1
        stream.transport.write(b"".join(pieces))
        self._free(stream)
        stream.transport.close()
        stream.ended()

    def _end(self, stream: Stream, pieces: list[bytes], is_failed: bool = False) -> None:
        stream.transport.write(b"".join(pieces))
        if not is_failed:
            self._stats.completed += 1
        self._free(stream)
        stream.ended()

    def _free(self, stream: Stream) -> None:
        stream.is_over = True
        self._stats.running -= 1
        if self._waiting:
            following = self._waiting.popleft()
            self._stats.waiting -= 1
            self._stats.running += 1
            self._begin(following)
