"""Engines' error answers in our terms: no stack traces, no addresses, no keys."""

import re
from typing import Any

import msgspec

from outpace.values.errors import EngineFailed, InvalidInput, OutpaceError, Overloaded

_LONGEST_MESSAGE = 400
_ADDRESS = re.compile(
    r"\b[a-z][a-z0-9+.-]*://\S+|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|/(?:[\w.-]+/)+[\w.-]+", re.I
)
_SECRET = re.compile(r"\b(?:sk|pk|key|Bearer)[-_ ][\w*.-]{6,}", re.I)
# Statuses that say something about the caller's request and not about our leg to the engine.
_CALLERS_FAULT = frozenset({400, 413, 415, 422})


class EngineError(msgspec.Struct):
    """The fields of an error object that are read."""

    message: str = ""
    type: str | None = None
    code: Any = None
    param: Any = None
    n_prompt_tokens: int | None = None
    n_ctx: int | None = None


class _Envelope(msgspec.Struct):
    error: EngineError | str | None = None
    message: str | None = None


_DECODER = msgspec.json.Decoder(_Envelope)


def parse_error(body: bytes) -> EngineError | None:
    """The error object in `body`; None for HTML, plain text and other answers."""
    try:
        envelope = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if isinstance(envelope.error, EngineError):
        return envelope.error
    text = envelope.error or envelope.message
    return EngineError(message=text) if text else None


def translate(status: int, body: bytes) -> OutpaceError:
    """The error that the client should see for an engine's answer of `status`."""
    error = parse_error(body)
    if status in _CALLERS_FAULT and error is not None:
        return refused(error)
    if status in (429, 503):
        return Overloaded("The engine has no capacity now; retry shortly.", retry_after_s=1.0)
    if status in (401, 403):
        return EngineFailed("The engine refused Outpace's credentials; an administrator must check them.")
    if status == 404:
        return EngineFailed("The engine does not serve this model or path; an administrator must check it.")
    return EngineFailed(f"The engine failed with status {status}.")


def refused(error: EngineError) -> OutpaceError:
    """An engine's refusal of the request itself, its words kept."""
    param = error.param if isinstance(error.param, str) else None
    refusal = InvalidInput(None, scrub(error.message) or "The engine refused the request.")
    refusal.param = param
    if isinstance(error.code, str):
        refusal.code = error.code
    return refusal


def scrub(message: str) -> str:
    """`message` in one bounded line without addresses, paths and secrets."""
    line = " ".join(message.split())[:_LONGEST_MESSAGE]
    return _SECRET.sub("(hidden)", _ADDRESS.sub("(hidden)", line))
