"""Asking a replica over HTTP: does it answer, does it give a token, how loaded is it."""

from types import TracebackType
from typing import Self

import aiohttp
import msgspec

from outpace.engines.protocol import Engine, Load, Readiness
from outpace.values.errors import EngineFailed

_CONNECT_S = 2.0
_LARGEST_ANSWER_BYTES = 1 << 20


class _Usage(msgspec.Struct):
    completion_tokens: int | None = None


class _Answer(msgspec.Struct):
    choices: list[object] = []
    data: list[object] = []
    usage: _Usage | None = None


_ANSWERS = msgspec.json.Decoder(_Answer)


class Probe:
    """A connection of our own to one replica. Use as an async context manager."""

    def __init__(self, address: str, token: str) -> None:
        unix_path = address.removeprefix("unix:") if address.startswith("unix:") else None
        connector = aiohttp.UnixConnector(unix_path) if unix_path else aiohttp.TCPConnector(limit=4)
        self._base = "http://replica" if unix_path else address.rstrip("/")
        self._session = aiohttp.ClientSession(
            connector=connector, headers={"Authorization": f"Bearer {token}"}, trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def is_up(self, path: str, deadline_s: float) -> bool:
        """The path answers 200 in time."""
        try:
            return (await self._ask("GET", path, None, deadline_s))[0] == 200
        except EngineFailed:
            return False

    async def require_token(self, readiness: Readiness, deadline_s: float) -> None:
        """Return when the replica has produced one token. Raises EngineFailed saying what came instead."""
        status, body = await self._ask("POST", readiness.token_path, readiness.token_body, deadline_s)
        if status != 200:
            raise EngineFailed(f"the probe was answered with status {status}")
        if not has_token(body):
            raise EngineFailed("the probe's answer holds no token")

    async def load(self, engine: Engine, deadline_s: float) -> Load | None:
        """The replica's own load figure; None when it has none or does not tell it in time."""
        if engine.load_path is None:
            return None
        try:
            status, body = await self._ask("GET", engine.load_path, None, deadline_s)
            return engine.load(body) if status == 200 else None
        except EngineFailed:
            return None

    async def _ask(self, method: str, path: str, body: bytes | None, deadline_s: float) -> tuple[int, bytes]:
        timeout = aiohttp.ClientTimeout(total=deadline_s, connect=min(_CONNECT_S, deadline_s))
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            async with self._session.request(
                method, self._base + path, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                return response.status, await _body_of(response)
        except TimeoutError as error:
            raise EngineFailed(f"no answer within {deadline_s:.0f} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise EngineFailed(f"no answer: {type(error).__name__}") from error


async def _body_of(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > _LARGEST_ANSWER_BYTES:
            raise EngineFailed(f"an answer of more than {_LARGEST_ANSWER_BYTES} bytes to a probe")
    return body


def has_token(body: bytes) -> bool:
    """An OpenAI-style answer with a choice or a vector in it, and not zero tokens by its own count."""
    try:
        answer = _ANSWERS.decode(body)
    except msgspec.DecodeError:
        return False
    counted = answer.usage.completion_tokens if answer.usage else None
    return bool(answer.data) or (bool(answer.choices) and counted != 0)
