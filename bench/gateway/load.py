"""A cheap closed-loop client: keep-alive connections, httptools, no library between the socket and the clock."""

import asyncio
import statistics
from dataclasses import dataclass, field
from typing import cast

import httptools

from outpace.values.clock import SystemClock

_clock = SystemClock()


@dataclass
class Sample:
    """One request: seconds to the first body byte and to the end, and the pieces of a stream."""

    first_s: float
    total_s: float
    events: int
    status: int


@dataclass
class Round:
    """All samples of one round at one target."""

    samples: list[Sample] = field(default_factory=list)
    wall_s: float = 0.0

    @property
    def events(self) -> int:
        """Stream events received."""
        return sum(sample.events for sample in self.samples)

    @property
    def errors(self) -> int:
        """Answers that were not 200."""
        return sum(sample.status != 200 for sample in self.samples)

    def quantile_ms(self, name: str, q: float) -> float:
        """A quantile of `first_s` or `total_s` in milliseconds."""
        values = sorted(getattr(sample, name) for sample in self.samples)
        return 1000 * values[min(len(values) - 1, int(q * len(values)))]

    def median_ms(self, name: str) -> float:
        """The median of `first_s` or `total_s` in milliseconds."""
        return 1000 * statistics.median(getattr(sample, name) for sample in self.samples)


class Connection(asyncio.Protocol):
    """One keep-alive connection with one request at a time."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._done: asyncio.Future[Sample] | None = None
        self._began_s = self._first_s = 0.0
        self._events = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError("the server closed the connection"))

    def on_body(self, body: bytes) -> None:
        if not self._first_s:
            self._first_s = _clock.monotonic_s()
        self._events += body.count(b"data: ")

    def on_message_complete(self) -> None:
        now_s = _clock.monotonic_s()
        if self._done is not None and not self._done.done():
            self._done.set_result(
                Sample(
                    first_s=(self._first_s or now_s) - self._began_s,
                    total_s=now_s - self._began_s,
                    events=self._events,
                    status=self._parser.get_status_code(),
                )
            )

    def ask(self, message: bytes) -> "asyncio.Future[Sample]":
        """Send one request; the future resolves at the end of its answer."""
        assert self._transport is not None
        self._done = asyncio.get_running_loop().create_future()
        self._events, self._first_s, self._began_s = 0, 0.0, _clock.monotonic_s()
        self._transport.write(message)
        return self._done

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()


def http_post(path: str, body: bytes, key: str | None) -> bytes:
    """The bytes of one POST."""
    lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json"]
    if key:
        lines.append(f"authorization: Bearer {key}")
    lines.append(f"content-length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


async def run_round(place: int | str, message: bytes, *, connections: int, requests: int) -> Round:
    """`requests` requests over `connections` connections to a port or a socket's path, each when one is answered."""
    loop = asyncio.get_running_loop()
    result = Round()
    left = requests

    async def one_client() -> None:
        nonlocal left
        connection = await connect()
        while left > 0:
            left -= 1
            try:
                result.samples.append(await connection.ask(message))
            except ConnectionError:  # some servers close a kept connection at the moment of its reuse
                connection = await connect()
                result.samples.append(await connection.ask(message))
        connection.close()

    async def connect() -> Connection:
        if isinstance(place, int):
            _, connection = await loop.create_connection(Connection, "127.0.0.1", place)
        else:
            _, connection = await loop.create_unix_connection(Connection, place)
        return connection

    began_s = _clock.monotonic_s()
    await asyncio.gather(*(one_client() for _ in range(connections)))
    result.wall_s = _clock.monotonic_s() - began_s
    return result
