"""What stands before the admin door's paths, as plain ASGI: Host, key, size and time of the body."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from outpace.control.keys import Key, fingerprint
from outpace.values.clock import Clock
from outpace.values.errors import (
    HeadersTooLarge,
    InvalidInput,
    InvalidKey,
    ModelNotAllowed,
    OutpaceError,
    RateLimited,
    RequestTimedOut,
    RequestTooLarge,
)
from outpace.values.units import KIB

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = frozenset({"/healthz"})
METRICS_PATH = "/metrics"
LARGEST_BODY_BYTES = 128 * KIB
BODY_DEADLINE_S = 10.0
_LONGEST_KEY_BYTES = 512
_WRONG_KEYS_PER_S = 10.0
_WRONG_KEYS_BURST = 30.0
_MOST_ADDRESSES = 1_024
_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Guard:
    """Lets a request through to `app` with its whole body and `scope["state"]["key"]`, or refuses it."""

    def __init__(
        self, app: App, find_key: Callable[[str], Key | None], clock: Clock, *, is_loopback: bool
    ) -> None:
        self._app = app
        self._find_key = find_key
        self._clock = clock
        self._is_loopback = is_loopback
        self._wrong: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            self._check_host(scope)
            self._check_key(scope)
            body = await _whole_body(scope, receive)
        except OutpaceError as error:
            await send_error(send, error)
            return
        await self._app(scope, _replay(body, receive), send)

    def _check_host(self, scope: Scope) -> None:
        """A page of the web that points its own name at this machine must not reach a loopback door."""
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1:
            raise InvalidInput("Host", "exactly one Host header")
        name = hosts[0].decode("latin-1").lower()
        bare = name if name.endswith("]") else name.rpartition(":")[0] or name
        if self._is_loopback and bare not in _LOOPBACK_HOSTS:
            raise InvalidInput("Host", "this door is reached as 127.0.0.1 or localhost only")

    def _check_key(self, scope: Scope) -> None:
        # `path` is what the client sent; nothing here is built from the Host header.
        if scope["path"] in OPEN_PATHS or (scope["path"] == METRICS_PATH and self._is_loopback):
            return
        secret = _presented(scope)
        # The look-up is by hash, so its time says nothing about the key; wrong keys do the same work.
        key = self._find_key(fingerprint((secret or b"").decode("latin-1")))
        if secret is None or key is None:
            self._count_wrong(str((scope.get("client") or ("",))[0]))
            raise InvalidKey
        if "admin" not in key.scopes:
            raise ModelNotAllowed("This key has no `admin` scope; the admin key is in credentials.json.")
        scope.setdefault("state", {})["key"] = key

    def _count_wrong(self, address: str) -> None:
        now_s = self._clock.monotonic_s()
        left, seen_s = self._wrong.pop(address, (_WRONG_KEYS_BURST, now_s))
        left = min(_WRONG_KEYS_BURST, left + (now_s - seen_s) * _WRONG_KEYS_PER_S) - 1.0
        self._wrong[address] = (max(left, 0.0), now_s)
        if len(self._wrong) > _MOST_ADDRESSES:
            self._wrong.popitem(last=False)
        if left < 0:
            raise RateLimited("requests", "Too many requests with invalid keys from this address.", 1.0)


async def send_error(send: Send, error: OutpaceError) -> None:
    """The error in OpenAI's envelope."""
    body = error_body(error)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.encode(), value.encode()) for name, value in error_headers(error).items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def error_body(error: OutpaceError) -> bytes:
    """OpenAI's envelope."""
    fields = {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}
    return msgspec.json.encode({"error": fields})


def error_headers(error: OutpaceError) -> dict[str, str]:
    """What clients act on besides the body."""
    headers: dict[str, str] = {}
    if error.status == InvalidKey.status:
        headers["www-authenticate"] = "Bearer"
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    if isinstance(error, RequestTooLarge | RequestTimedOut | HeadersTooLarge):
        # The rest of the body is not read.
        headers["connection"] = "close"
    return headers


def _presented(scope: Scope) -> bytes | None:
    found = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(found) != 1:
        return None
    scheme, _, secret = found[0].partition(b" ")
    secret = secret.strip()
    if scheme.lower() != b"bearer" or not secret or len(secret) > _LONGEST_KEY_BYTES:
        return None
    return bytes(secret)


async def _whole_body(scope: Scope, receive: Receive) -> bytes:
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    if lengths and (not lengths[0].isdigit() or int(lengths[0]) > LARGEST_BODY_BYTES):
        raise _too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            while True:
                message = await receive()
                body += message.get("body", b"")
                if len(body) > LARGEST_BODY_BYTES:
                    raise _too_large()
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise RequestTimedOut(f"The body did not arrive within {BODY_DEADLINE_S:.0f} s.") from None


def _replay(body: bytes, receive: Receive) -> Receive:
    is_given = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _too_large() -> RequestTooLarge:
    return RequestTooLarge(f"A request to the admin API has at most {LARGEST_BODY_BYTES // KIB} KiB.")
