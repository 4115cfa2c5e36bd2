"""The OpenVINO front at work: requests become sequences in the stepper, its reports become answers.

At most `parallel` sequences are in the stepper; the others wait here, first come, first served. A client that leaves
takes its sequences along: waiting ones at once, running ones with the stepper's next step.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from outpace.engines.openvino_answer import Answer
from outpace.engines.openvino_config import OpenVinoConfig
from outpace.engines.openvino_http import Connection, Work, is_same, token_check
from outpace.engines.openvino_library import Tokenizer
from outpace.engines.openvino_prompts import Prompt, prompts_of, samplings
from outpace.engines.openvino_schemas import Schemas
from outpace.engines.openvino_wire import Add, Ask, Drop, Order, Piece, Sampling, Step
from outpace.engines.responses import STREAM_END, STREAM_HEAD, chunk, error_body, json_response
from outpace.values.clock import Clock
from outpace.values.errors import OutpaceError

_LOG = logging.getLogger(__name__)
_ASK = msgspec.json.Decoder(Ask)
_PATHS = ("/v1/chat/completions", "/v1/completions")


class Sequence:
    """One choice of a request, waiting or in the stepper."""

    def __init__(self, number: int, request: "Request", index: int, add: Add) -> None:
        self.number = number
        self.request = request
        self.index = index
        self.add = add


class Front:
    """All requests of the process."""

    def __init__(
        self,
        config: OpenVinoConfig,
        token: str,
        tokenizer: Tokenizer,
        send: Callable[[Order], None],
        clock: Clock,
    ) -> None:
        self._config = config
        self._expected = token_check(token)
        self.tokenizer = tokenizer
        self._send = send
        self._schemas = Schemas(Path(config.model_path))
        self._clock = clock
        # One: the tokenizer is quick, and requests keep their order.
        self._texts = ThreadPoolExecutor(1, "texts")
        self._tasks: set[asyncio.Task[None]] = set()
        self._num_requests = 0
        self._num_sequences = 0
        self._waiting: deque[Sequence] = deque()
        self._running: dict[int, Sequence] = {}
        self._kv_used_fraction = 0.0

    def is_allowed(self, authorization: bytes) -> bool:
        """The caller knows the replica's token."""
        return is_same(self._expected, authorization)

    def ask(self, path: str, body: bytes, connection: Connection) -> "bytes | Work":
        """A whole response, or the work on a request."""
        if path == "/health":
            return json_response(200, b'{"status":"ok"}')
        if path == "/stats":
            return json_response(200, msgspec.json.encode(self._stats()))
        if path not in _PATHS:
            return json_response(404, error_body(f"no path {path}", "not_found"))
        try:
            asked = _ASK.decode(body)
        except msgspec.DecodeError as error:
            return json_response(400, error_body(str(error), None))
        request = Request(self, asked, connection)
        self._start(request.run())
        return request

    async def prepared(self, ask: Ask) -> tuple[list[Prompt], list[Sampling]]:
        """The prompts as tokens and how each choice is sampled, worked out beside the loop. Raises OutpaceError."""
        schema = bytes(ask.json_schema).decode() or None
        if schema is not None:
            await self._schemas.check(schema)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._texts, _prepare, ask, self.tokenizer, self._config.context_tokens, schema
        )

    def head(self, is_chat: bool) -> dict[str, Any]:
        """What every event of one answer begins with."""
        self._num_requests += 1
        kind = "chatcmpl" if is_chat else "cmpl"
        return {
            "id": f"{kind}-{self._num_requests}",
            "object": "chat.completion.chunk" if is_chat else "text_completion",
            "created": int(self._clock.wall_s()),
            "model": self._config.alias,
        }

    def submit(self, request: "Request", prompts: list[Prompt], sampled: list[Sampling]) -> None:
        """Queue the sequences of a request."""
        for index, sampling in enumerate(sampled):
            self._num_sequences += 1
            prompt = prompts[index // request.ask.n].tokens
            add = Add(self._num_sequences, prompt, sampling, request.ask.cache_salt)
            self._waiting.append(Sequence(self._num_sequences, request, index, add))
        self._fill()

    def report(self, step: Step) -> None:
        """Hand out what the stepper made."""
        self._kv_used_fraction = step.kv_used_fraction
        touched: dict[int, Request] = {}
        for piece in step.pieces:
            sequence = self._running.get(piece.id)
            if sequence is None:
                continue
            if piece.end is not None:
                del self._running[piece.id]
            request = sequence.request
            if request.is_gone:
                continue
            if request.take(sequence.index, piece) and piece.end is None:
                self._send(Drop(piece.id))
            touched[id(request)] = request
        self._fill()
        for request in touched.values():
            request.flush()

    def forget(self, request: "Request") -> None:
        """Give up the sequences of a request."""
        self._waiting = deque(sequence for sequence in self._waiting if sequence.request is not request)
        for sequence in self._running.values():
            if sequence.request is request:
                self._send(Drop(sequence.number))

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self._config.parallel:
            sequence = self._waiting.popleft()
            self._running[sequence.number] = sequence
            self._send(sequence.add)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _stats(self) -> dict[str, object]:
        return {
            "running": len(self._running),
            "waiting": len(self._waiting),
            "kv_used_fraction": self._kv_used_fraction,
        }


class Request:
    """One request between its connection and its sequences."""

    def __init__(self, front: Front, ask: Ask, connection: Connection) -> None:
        self.ask = ask
        self.is_gone = False
        self._front = front
        self._connection = connection
        self._answer: Answer | None = None
        # Events that are still to be sent; of a request that does not stream, all of them.
        self._events: list[bytes] = []
        self._has_head = False

    async def run(self) -> None:
        """Work out the prompts and queue them, or refuse."""
        try:
            prompts, sampled = await self._front.prepared(self.ask)
        except OutpaceError as error:
            self._refuse(error.status, error_body(error.message, error.code, error.param))
            return
        except Exception:  # noqa: BLE001  # a door: whatever the library raises must not leave the client waiting
            _LOG.exception("request_failed")
            self._refuse(500, error_body("The engine could not read the request.", "engine_failed"))
            return
        if self.is_gone:
            return
        num_tokens = sum(prompt.num_tokens for prompt in prompts)
        is_chat = self.ask.messages is not None
        self._answer = Answer(self.ask, num_tokens, self._front.head(is_chat), self._front.tokenizer.pieces)
        if self.ask.max_tokens == 0:
            self._events = [self._answer.open(), self._answer.end_unasked()]
            self.flush()
            return
        self._front.submit(self, prompts, sampled)

    def take(self, index: int, piece: Piece) -> bool:
        """Note what a choice got; True when it needs no more."""
        assert self._answer is not None
        events = self._answer.take(index, piece)
        if events:
            if not self._answer.is_opened:
                self._events.append(self._answer.open())
            self._events.append(events)
        return self._answer.choices[index].is_over

    def flush(self) -> None:
        """Send what is due."""
        answer = self._answer
        assert answer is not None
        if answer.failure is not None:
            self._front.forget(self)
            if not self._has_head:
                self._refuse(500, error_body(answer.failure, "engine_failed"))
                return
        is_over = answer.is_over or answer.failure is not None
        if self.ask.stream:
            self._stream(answer, is_over)
        elif is_over:
            self._connection.write(json_response(200, answer.whole(self._events)))
        if is_over:
            self._end()

    def leave(self) -> None:
        """The client is gone."""
        self.is_gone = True
        self._front.forget(self)

    def _stream(self, answer: Answer, is_over: bool) -> None:
        if is_over:
            self._events.append(answer.close())
        payload = chunk(b"".join(self._events))
        self._events = []
        if not payload:
            return
        head = b"" if self._has_head else STREAM_HEAD
        self._has_head = True
        self._connection.write(head + payload + (STREAM_END if is_over else b""))

    def _refuse(self, status: int, body: bytes) -> None:
        if not self.is_gone:
            self._connection.write(json_response(status, body))
        self._end()

    def _end(self) -> None:
        self.is_gone = True
        self._connection.done()


def _prepare(
    ask: Ask, tokenizer: Tokenizer, context_tokens: int, schema: str | None
) -> tuple[list[Prompt], list[Sampling]]:
    prompts = prompts_of(ask, tokenizer, context_tokens)
    return prompts, samplings(ask, prompts, context_tokens, schema)
