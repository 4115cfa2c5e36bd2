"""Load on an OpenAI-compatible endpoint: so many users in a closed loop, or arrivals at their moments."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiohttp
import msgspec

from outpace.engines.protocol import Engine
from outpace.engines.registry import engine
from outpace.engines.wire import WireUsage
from outpace.lab.figures import LoadFigures, Sample, summed
from outpace.lab.gangs import Gangs
from outpace.lab.workload import Conversation, Turn
from outpace.values.clock import Clock, SystemClock
from outpace.values.errors import OutpaceError
from outpace.values.requests import ChatRequest
from outpace.values.snapshot import DeploymentEntry
from outpace.values.usage import Usage

_DEADLINE_S = 600.0
_MAX_ERROR_CHARACTERS = 200
# Shorter than what servers keep: llama.cpp closes after 5 s.
_KEPT_S = 3.0
# A line of a stream can hold an answer's tool call or a long piece of text.
_LINE_BYTES = 1 << 22


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where to ask: `unix:/path`, or `http://host:port` with or without `/v1`."""

    address: str
    model: str
    token: str | None = None
    # Added to every body, such as `{"temperature": 0}` or a dialect's switches.
    extra: dict[str, Any] = msgspec.field(default_factory=lambda: {"temperature": 0, "ignore_eos": True})
    headers: dict[str, str] = {}
    # The adapter to speak through, for replicas whose own words are not OpenAI's; empty: ask as any client would.
    engine: str = ""


class LoadRun(msgspec.Struct, frozen=True, kw_only=True):
    """Samples and their sum."""

    samples: tuple[Sample, ...]
    figures: LoadFigures


Progress = Callable[[int, int], None]


class LoadClient:
    """Asks a target; one for all runs at it, so that connections are kept."""

    def __init__(self, target: Target, clock: Clock | None = None) -> None:
        self._target = target
        self._clock = clock or SystemClock()
        self._session: aiohttp.ClientSession | None = None
        self._base = _base(target.address)
        self._adapter = engine(target.engine) if target.engine else None

    async def __aenter__(self) -> "LoadClient":
        is_socket = self._target.address.startswith("unix:")
        connector: aiohttp.BaseConnector
        if is_socket:
            path = self._target.address.removeprefix("unix:")
            connector = aiohttp.UnixConnector(path, limit=0, keepalive_timeout=_KEPT_S)
        else:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_S)
        headers = dict(self._target.headers)
        if self._target.token:
            headers["Authorization"] = f"Bearer {self._target.token}"
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=_DEADLINE_S),
            read_bufsize=_LINE_BYTES,
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._session is not None, "enter it first"
        await self._session.close()

    async def closed(
        self,
        asked: Sequence[Conversation],
        users: int,
        *,
        for_s: float | None = None,
        gangs: Gangs | None = None,
        progress: Progress | None = None,
    ) -> LoadRun:
        """`users` at once, each taking the next conversation when its last one ended; none begins after `for_s`.

        With `gangs` requests wait for their gang, which counts as their waiting.
        """
        began_s, waiting = self._clock.monotonic_s(), list(reversed(asked))
        samples: list[Sample] = []
        idle_since_s: list[float] = []

        async def user() -> None:
            while waiting and (for_s is None or self._clock.monotonic_s() - began_s < for_s):
                conversation = waiting.pop()
                await self._talk(conversation, began_s, samples, gangs)
                if progress is not None:
                    progress(len(samples), len(asked))
            idle_since_s.append(self._clock.monotonic_s() - began_s)

        await asyncio.gather(*(user() for _ in range(users)))
        wall_s = self._clock.monotonic_s() - began_s
        return LoadRun(
            samples=tuple(samples), figures=summed(samples, wall_s, min(idle_since_s, default=wall_s))
        )

    async def opened(self, asked: Sequence[Conversation], progress: Progress | None = None) -> LoadRun:
        """Every conversation begins at its `at_s`, whatever became of those before."""
        began_s = self._clock.monotonic_s()
        samples: list[Sample] = []

        async def arrive(conversation: Conversation) -> None:
            await self._clock.sleep(
                max(0.0, (conversation.at_s or 0.0) - (self._clock.monotonic_s() - began_s))
            )
            await self._talk(conversation, began_s, samples)
            if progress is not None:
                progress(len(samples), len(asked))

        await asyncio.gather(*(arrive(conversation) for conversation in asked))
        return LoadRun(samples=tuple(samples), figures=summed(samples, self._clock.monotonic_s() - began_s))

    async def ask(
        self,
        messages: Sequence[dict[str, Any]],
        output_tokens: int,
        began_s: float,
        wrote: Callable[[], None] = lambda: None,
    ) -> Sample:
        """One streamed chat request; what went wrong is in the sample. `wrote` is called at its first text."""
        body = {
            "model": self._target.model,
            "messages": list(messages),
            "max_tokens": output_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self._target.extra,
        }
        answer = _Answer(self._clock.monotonic_s(), wrote)
        try:
            try:
                await self._read(body, answer)
            except aiohttp.ClientConnectionError:
                if answer.is_begun:
                    raise
                # Some servers close a kept connection at the moment of its reuse: nothing was done for it.
                await self._read(body, answer)
        except (aiohttp.ClientError, TimeoutError, ValueError, msgspec.DecodeError, OutpaceError) as error:
            answer.error = f"{type(error).__name__}: {error}"[:_MAX_ERROR_CHARACTERS]
        return answer.sample(self._clock.monotonic_s(), began_s)

    async def _read(self, body: dict[str, Any], answer: "_Answer") -> None:
        assert self._session is not None, "enter it first"
        if self._adapter is not None:
            await self._read_through(self._adapter, body, answer)
            return
        headers = {"content-type": "application/json"}
        url = f"{self._base}/chat/completions"
        async with self._session.post(url, data=msgspec.json.encode(body), headers=headers) as response:
            if response.status != 200:
                answer.error = _words(response.status, await response.read())
                return
            answer.is_begun = True
            async for line in response.content:
                answer.feed(line, self._clock.monotonic_s())

    async def _read_through(self, adapter: Engine, body: dict[str, Any], answer: "_Answer") -> None:
        """As the gateway would: the adapter's body, and its reader's view of the answer."""
        assert self._session is not None, "enter it first"
        request = msgspec.convert(body, ChatRequest)
        call = adapter.call(request, _entry(self._target), "lab")
        url = self._base.removesuffix("/v1") + call.path
        headers = {"content-type": "application/json"}
        async with self._session.post(url, data=call.body, headers=headers) as response:
            if response.status != 200:
                answer.error = _words(response.status, await response.read())
                return
            answer.is_begun = True
            call.reader.started(response.status, {})
            async for piece in response.content.iter_any():
                answer.feed_all(call.reader.feed(piece), self._clock.monotonic_s())
            answer.feed_all(call.reader.finished(), self._clock.monotonic_s())
        answer.guessed(call.reader.usage)

    async def _talk(
        self,
        conversation: Conversation,
        began_s: float,
        samples: list[Sample],
        gangs: Gangs | None = None,
    ) -> None:
        messages: list[dict[str, Any]] = list(conversation.before)
        for turn in conversation.turns:
            sample = await self._turn(messages, turn, began_s, gangs)
            samples.append(sample)
            if sample.error is not None:
                return
            messages.append({"role": "assistant", "content": sample.text})

    async def _turn(
        self, messages: list[dict[str, Any]], turn: Turn, began_s: float, gangs: Gangs | None
    ) -> Sample:
        messages.append({"role": "user", "content": turn.text})
        if gangs is None:
            return await self.ask(messages, turn.output_tokens, began_s)
        waiting_since_s = self._clock.monotonic_s() - began_s
        async with gangs.turn():
            sample = await self.ask(messages, turn.output_tokens, began_s)
        return msgspec.structs.replace(sample, began_s=waiting_since_s)


async def in_turns(
    rounds: int, sides: Sequence[Callable[[int], Awaitable[LoadRun]]]
) -> list[list[LoadFigures]]:
    """Figures by side, each called with the round's number for other questions every time: caches would know them.

    Sides take turns, and every other round in reverse, so that a slow minute meets all alike.
    """
    found: list[list[LoadFigures]] = [[] for _ in sides]
    for number in range(rounds):
        order = range(len(sides)) if number % 2 == 0 else reversed(range(len(sides)))
        for index in order:
            found[index].append((await sides[index](number)).figures)
    return found


class _Timings(msgspec.Struct):
    draft_n: int = 0
    draft_n_accepted: int = 0


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: WireUsage | None = None
    timings: _Timings | None = None
    error: Any = None


_EVENTS = msgspec.json.Decoder(_Event)


class _Answer:
    """What one stream has told so far."""

    def __init__(self, asked_s: float, wrote: Callable[[], None] = lambda: None) -> None:
        self._wrote = wrote
        self.error: str | None = None
        # A status came: asking again would be a second request.
        self.is_begun = False
        self._asked_s = asked_s
        self._first_s: float | None = None
        self._last_s = asked_s
        self._longest_gap_s = 0.0
        self._usage: WireUsage | None = None
        self._timings = _Timings()
        self._pieces: list[str] = []
        self._is_done = False

    def feed(self, line: bytes, now_s: float) -> None:
        """One line of the stream. Raises msgspec.DecodeError for one that is no event."""
        if not line.startswith(b"data:"):
            return
        event = line[5:].strip()
        if event == b"[DONE]":
            self._is_done = True
            return
        seen = _EVENTS.decode(event)
        if seen.error is not None:
            self.error = str(seen.error)[:_MAX_ERROR_CHARACTERS]
        self._usage = seen.usage or self._usage
        self._timings = seen.timings or self._timings
        text = "".join(
            choice.delta.content or choice.delta.reasoning_content or "" for choice in seen.choices
        )
        if text:
            self._piece(text, now_s)

    def feed_all(self, events: bytes, now_s: float) -> None:
        """Whole events, as a reader gives them."""
        for line in events.splitlines():
            self.feed(line, now_s)

    def guessed(self, usage: Usage) -> None:
        """What a reader counted of guesses."""
        self._timings = _Timings(draft_n=usage.drafted_tokens, draft_n_accepted=usage.accepted_tokens)

    def sample(self, now_s: float, began_s: float) -> Sample:
        """The request as it ended now."""
        usage = (self._usage or WireUsage()).value()
        if self.error is None and self._usage is None:
            self.error = "the stream ended without usage" if self._is_done else "the stream was cut"
        return Sample(
            began_s=self._asked_s - began_s,
            first_s=None if self._first_s is None else self._first_s - began_s,
            ended_s=(self._last_s if self._first_s is not None else now_s) - began_s,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            output_tokens=usage.completion_tokens,
            # llama.cpp's own server tells them beside usage, the platform in it.
            drafted_tokens=self._timings.draft_n or usage.drafted_tokens,
            accepted_tokens=self._timings.draft_n_accepted or usage.accepted_tokens,
            longest_gap_s=self._longest_gap_s,
            error=self.error,
            text="".join(self._pieces),
        )

    def _piece(self, text: str, now_s: float) -> None:
        if self._first_s is None:
            self._first_s = now_s
            self._wrote()
        else:
            self._longest_gap_s = max(self._longest_gap_s, now_s - self._last_s)
        self._last_s = now_s
        self._pieces.append(text)


def _entry(target: Target) -> DeploymentEntry:
    return DeploymentEntry(
        name=target.model,
        model=target.model,
        engine_model=target.model,
        engine=target.engine,
        state="ready",
        created=0,
        owned_by="lab",
        tasks=("chat",),
    )


def _base(address: str) -> str:
    if address.startswith("unix:"):
        return "http://replica/v1"
    base = address.rstrip("/")
    return base if base.endswith("/v1") else f"{base}/v1"


def _words(status: int, body: bytes) -> str:
    try:
        error = msgspec.json.decode(body)["error"]
        return f"{status} {error.get('code') or ''} {error['message']}"[:_MAX_ERROR_CHARACTERS]
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return f"{status} {body[:_MAX_ERROR_CHARACTERS].decode(errors='replace')}"
