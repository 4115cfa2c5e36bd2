"""llama.cpp as a scorer: its native completion endpoint, asked over the replica's own socket.

A continuation is one request. Following another's tokens is one request per position with the prompt cached in the
sequence, which runs the very step that serving runs: same kernels, same KV format, one token at a time.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
import msgspec

from outpace.lab.replica import LabReplica
from outpace.precision.items import Item
from outpace.precision.traces import Step, Trace
from outpace.values.errors import EngineFailed, InvalidInput

# Positions per item, and per item with a schema.
POSITIONS = 12
_SCHEMA_POSITIONS = 16
ANSWER_TOKENS = 64
_LISTED = 64
# The candidate lists more, so that few of the reference's tokens are missing.
_LISTED_FOLLOWING = 128
_DEADLINE_S = 120.0
# An end mark or half a character as the sampled token would suppress the probabilities; they are taken before biases.
_PLAIN, _CERTAIN = "a", 1000.0
# What a recording of this scorer's answers depends on, besides the replica and the items.
SETTINGS = f"tokens,{POSITIONS},{_SCHEMA_POSITIONS},{ANSWER_TOKENS},{_LISTED}"
_GREEDY = {"temperature": 0.0, "top_k": 1, "cache_prompt": True}


class _Top(msgspec.Struct):
    id: int
    logprob: float


class _Position(msgspec.Struct):
    id: int
    top_logprobs: list[_Top]


class _Completion(msgspec.Struct):
    content: str
    tokens: list[int] = []
    completion_probabilities: list[_Position] = []


class _Template(msgspec.Struct):
    prompt: str


_A = TypeVar("_A")


class _Tokens(msgspec.Struct):
    tokens: list[int]


class LlamaScorer:
    """One replica as `precision.traces.Scorer`. Use as an async context manager."""

    # Its server does not tell; `python -m bench.precision kv` reads its log.
    kv_bytes_per_token: float | None = None

    def __init__(self, replica: LabReplica, parallel: int, documents: tuple[str, ...] = ()) -> None:
        self._path = replica.address.removeprefix("unix:")
        self._headers = {"Authorization": f"Bearer {replica.token}"}
        # Each shared document keeps a sequence to itself, so that it is read once.
        kept = documents[: parallel - 1]
        self._of_document = {name: (slot, asyncio.Lock()) for slot, name in enumerate(kept)}
        self._free: asyncio.Queue[int] = asyncio.Queue()
        for slot in range(len(kept), parallel):
            self._free.put_nowait(slot)
        self._plain: int | None = None
        self._prompts: dict[str, list[int]] = {}

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(self._path, limit=0),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=_DEADLINE_S),
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def continue_greedily(self, item: Item, *, at_length: bool = False) -> Trace:
        """The most likely continuation, with the probabilities of its first positions."""
        positions = positions_of(item)
        async with self._sequence(item) as slot:
            done = await self._complete(
                item,
                slot,
                (),
                n_predict=ANSWER_TOKENS if at_length else positions,
                n_probs=_LISTED,
                schema=item.schema,
                return_tokens=True,
            )
        tokens = tuple(done.tokens[:positions])
        listed = done.completion_probabilities[: len(tokens)]
        # llama.cpp drops the probabilities of tokens that end inside a character: then each position is asked for.
        if tuple(position.id for position in listed) != tokens:
            return Trace(item.id, done.content, await self.follow(item, tokens))
        return Trace(item.id, done.content, tuple(map(_step, listed)))

    async def follow(self, item: Item, tokens: tuple[int, ...]) -> tuple[Step, ...]:
        """How likely each of `tokens` is after the item and those before it."""
        steps = []
        async with self._sequence(item) as slot:
            for position, token in enumerate(tokens):
                done = await self._complete(
                    item,
                    slot,
                    tokens[:position],
                    n_predict=1,
                    n_probs=_LISTED_FOLLOWING,
                    logit_bias=[[await self._plain_token(), _CERTAIN]],
                )
                if not done.completion_probabilities:
                    raise EngineFailed("llama.cpp gave no probabilities for a position")
                steps.append(Step(token, _step(done.completion_probabilities[0]).top))
        return tuple(steps)

    async def answer(self, item: Item) -> str:
        """The greedy answer, longer than a continuation."""
        async with self._sequence(item) as slot:
            return (await self._complete(item, slot, (), n_predict=ANSWER_TOKENS, schema=item.schema)).content

    async def say(self, item: Item, limit_tokens: int) -> tuple[int, ...]:
        """The item's prompt and the model's own greedy answer of at most `limit_tokens`, as tokens."""
        async with self._sequence(item) as slot:
            done = await self._complete(item, slot, (), n_predict=limit_tokens, return_tokens=True)
        return (*await self._prompt(item), *done.tokens)

    async def tokens_of(self, text: str) -> tuple[int, ...]:
        """A text as it is, without the model's template."""
        body = {"content": text, "add_special": True}
        return tuple((await self._post("/tokenize", body, _Tokens)).tokens)

    async def prompt_tokens(self, item: Item) -> tuple[int, ...]:
        """The item as the model's template and tokenizer write it here."""
        return tuple(await self._prompt(item))

    @contextlib.asynccontextmanager
    async def _sequence(self, item: Item) -> AsyncIterator[int]:
        own = self._of_document.get(item.document or "")
        if own is not None:
            async with own[1]:
                yield own[0]
            return
        slot = await self._free.get()
        try:
            yield slot
        finally:
            self._free.put_nowait(slot)

    async def _complete(
        self, item: Item, slot: int, after: tuple[int, ...], *, schema: object = None, **options: object
    ) -> _Completion:
        prompt = [*await self._prompt(item), *after]
        body: dict[str, Any] = {**_GREEDY, **options, "prompt": prompt, "id_slot": slot}
        if schema is not None:
            body["json_schema"] = schema
        return await self._post("/completion", body, _Completion)

    async def _prompt(self, item: Item) -> list[int]:
        if item.id not in self._prompts:
            messages = [msgspec.to_builtins(turn) for turn in item.messages]
            text = (await self._post("/apply-template", {"messages": messages}, _Template)).prompt
            body = {"content": text, "add_special": True, "parse_special": True}
            self._prompts[item.id] = (await self._post("/tokenize", body, _Tokens)).tokens
        return self._prompts[item.id]

    async def _plain_token(self) -> int:
        if self._plain is None:
            self._plain = (await self._post("/tokenize", {"content": _PLAIN}, _Tokens)).tokens[0]
        return self._plain

    async def _post(self, path: str, body: object, kind: type[_A]) -> _A:
        try:
            # A new connection where llama.cpp closed an idle one at that moment: nothing was generated.
            with contextlib.suppress(aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                return await self._post_once(path, body, kind)
            return await self._post_once(path, body, kind)
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
            raise EngineFailed(
                f"llama.cpp did not answer the gate: {error or type(error).__name__}"
            ) from error

    async def _post_once(self, path: str, body: object, kind: type[_A]) -> _A:
        async with self._session.post(f"http://replica{path}", data=msgspec.json.encode(body)) as response:
            raw = await response.read()
        if response.status == 400 and b"exceed" in raw:
            raise InvalidInput("--items", "an item is longer than the model's context; shorten it")
        if response.status != 200:
            raise EngineFailed(f"llama.cpp answered the gate with status {response.status}: {raw[:200]!r}")
        return msgspec.json.decode(raw, type=kind)


def positions_of(item: Item) -> int:
    """Positions of an item's continuation that are looked at."""
    return POSITIONS if item.schema is None else _SCHEMA_POSITIONS


def _step(position: _Position) -> Step:
    return Step(position.id, {top.id: top.logprob for top in position.top_logprobs})
