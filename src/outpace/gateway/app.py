"""The gateway's ASGI app: a table of exact paths, one life of a request, one place where an error gets its status."""

import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

import structlog

from outpace.gateway.arrival import Arrival
from outpace.gateway.door import Cycle
from outpace.gateway.headers import answer_head, refusal_head
from outpace.gateway.keys import Keys
from outpace.gateway.openai.errors import error_body
from outpace.gateway.openai.models import model_body, models_body
from outpace.gateway.serve import Service
from outpace.values.clock import Clock
from outpace.values.errors import InvalidInput, MethodNotAllowed, NotFound, OutpaceError
from outpace.values.requests import Endpoint
from outpace.values.snapshot import KeyEntry, Snapshot

_log = structlog.get_logger()

GENERATE: Mapping[bytes, Endpoint] = {
    b"/v1/chat/completions": "chat",
    b"/v1/completions": "completions",
    b"/v1/embeddings": "embeddings",
}
HEALTH = frozenset({b"/health", b"/healthz", b"/v1/health"})
MODELS = b"/v1/models"

Scope = dict[str, Any]
Answer = Callable[[Cycle, Scope, "Arrival"], Awaitable[None]]


class Gateway:
    """One worker's app."""

    def __init__(
        self, *, service: Service, keys: Keys, snapshot: Callable[[], Snapshot], clock: Clock
    ) -> None:
        self._service = service
        self._keys = keys
        self._snapshot = snapshot
        self._clock = clock

    async def __call__(self, scope: Scope, receive: object, send: object) -> None:
        """Answer one request. The door gives its cycle in the scope; ASGI's own channels are not used."""
        if scope["type"] != "http":
            return
        cycle: Cycle = scope["outpace.cycle"]
        arrival = Arrival(request_id="req-" + secrets.token_hex(12), at_s=self._clock.monotonic_s())
        try:
            await self._answer(cycle, scope, arrival)
        except OutpaceError as error:
            self._refuse(cycle, arrival, error)
        except Exception:
            _log.exception("request_failed", request_id=arrival.request_id)
            self._refuse(
                cycle, arrival, OutpaceError("Something broke inside the gateway; the log has the cause.")
            )

    async def _answer(self, cycle: Cycle, scope: Scope, arrival: "Arrival") -> None:
        path: bytes = scope["raw_path"]
        endpoint = GENERATE.get(path)
        if endpoint is not None:
            _require_method(scope, "POST")
            key = self._authenticate(scope, arrival)
            await self._service.generate(cycle, endpoint, key, scope["headers"], arrival)
            return
        if path in HEALTH:
            _require_method(scope, "GET")
            cycle.respond(200, answer_head(arrival.request_id, b"application/json"), b'{"status":"ok"}')
            return
        if path == MODELS or path.startswith(MODELS + b"/"):
            self._models(cycle, scope, path, arrival)
            return
        raise NotFound("There is no such path here. The API lives under /v1; see the README's curl line.")

    def _models(self, cycle: Cycle, scope: Scope, path: bytes, arrival: "Arrival") -> None:
        _require_method(scope, "GET")
        key = self._authenticate(scope, arrival)
        snapshot = self._snapshot()
        body = models_body(snapshot, key) if path == MODELS else model_body(snapshot, key, _model_name(path))
        cycle.respond(200, answer_head(arrival.request_id, b"application/json"), body)

    def _authenticate(self, scope: Scope, arrival: "Arrival") -> KeyEntry:
        client = scope["client"]
        key = self._keys.authenticate(self._snapshot(), scope["headers"], client[0] if client else "")
        arrival.key_id = key.id
        return key

    def _refuse(self, cycle: Cycle, arrival: "Arrival", error: OutpaceError) -> None:
        if cycle.is_disconnected or cycle.is_started:
            cycle.abort()
            return
        self._service.refused(arrival, error)
        cycle.respond(error.status, refusal_head(arrival.request_id, error, arrival.rate), error_body(error))


def _require_method(scope: Scope, method: str) -> None:
    if scope["method"] != method:
        raise MethodNotAllowed(f"This path answers {method} only.")


def _model_name(path: bytes) -> str:
    try:
        return unquote_to_bytes(path[len(MODELS) + 1 :]).decode()
    except UnicodeDecodeError:
        raise InvalidInput("model", "is not UTF-8") from None
