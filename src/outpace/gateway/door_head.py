"""The head of a request, checked before anything is done with it. Pure functions."""

import re
from urllib.parse import unquote

import msgspec

from outpace.gateway.door_limits import DoorLimits
from outpace.values.errors import (
    HeadersTooLarge,
    InvalidInput,
    NotFound,
    RequestTooLarge,
    UnsupportedMedia,
)

Headers = list[tuple[bytes, bytes]]

# RFC 9110 section 7.2, without what no client sends: user info, percent-encoding, sub-delimiters.
_HOST = re.compile(rb"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
# The parser leaves them at the end of a value.
_BLANKS = b" \t"
# Fields that change how a message is read: two of them are two meanings.
_ONCE = (b"host", b"content-length", b"transfer-encoding", b"content-type", b"content-encoding", b"expect")


class Head(msgspec.Struct, frozen=True):
    """What the door needs of a head."""

    raw_path: bytes
    path: str
    query: bytes
    is_http11: bool
    # Bytes of the body as announced; None when it comes in chunks.
    content_bytes: int | None
    awaits_continue: bool
    content_type: bytes


def read_head(target: bytes, version: str, headers: Headers, limits: DoorLimits) -> Head:
    """Check a complete head. `headers` have lower-case names. Raises InvalidInput, HeadersTooLarge,
    RequestTooLarge, UnsupportedMedia, NotFound.
    """
    if len(headers) > limits.max_headers:
        raise too_many_headers(limits)
    if len(target) > limits.max_target_bytes:
        raise NotFound(f"There is no path longer than {limits.max_target_bytes} bytes here.")
    if version not in ("1.1", "1.0"):
        raise InvalidInput(None, f"HTTP/{version} is not spoken here; use HTTP/1.1")
    is_http11 = version == "1.1"
    fields = dict(headers)
    if len(fields) != len(headers):
        _require_once(headers)
    _check_host(fields.get(b"host"), is_http11)
    raw_path, query = _split_target(target)
    return Head(
        raw_path,
        unquote(raw_path.decode("ascii")) if b"%" in raw_path else raw_path.decode("ascii"),
        query,
        is_http11,
        _content_bytes(fields, is_http11, limits),
        is_http11 and b"expect" in fields and _awaits_continue(fields[b"expect"]),
        fields.get(b"content-type", b""),
    )


def too_many_headers(limits: DoorLimits) -> HeadersTooLarge:
    """The refusal of a head with too many fields."""
    return HeadersTooLarge(f"The request has more than {limits.max_headers} header fields; send fewer.")


def head_too_long(limits: DoorLimits) -> HeadersTooLarge:
    """The refusal of a head with too many bytes."""
    return HeadersTooLarge(f"The request's head exceeds {limits.max_head_bytes} bytes; send less.")


def body_too_long(limits: DoorLimits) -> RequestTooLarge:
    """The refusal of a body with too many bytes."""
    return RequestTooLarge(f"The body exceeds {limits.max_body_bytes} bytes; send a smaller request.")


def head_bytes(target: bytes, headers: Headers) -> int:
    """Bytes of a head as it was sent, give or take white space."""
    return len(target) + sum(len(name) + len(value) + 4 for name, value in headers)


def _require_once(headers: Headers) -> None:
    names = [name for name, _ in headers]
    for name in _ONCE:
        if names.count(name) > 1:
            raise InvalidInput(None, f"the header field {name.decode()} was sent twice; send it once")


def _check_host(host: bytes | None, is_http11: bool) -> None:
    if host is None:
        if is_http11:
            raise InvalidInput(None, "the header field Host is missing; HTTP/1.1 requires it")
        return
    if _HOST.fullmatch(host.rstrip(_BLANKS)) is None:
        raise InvalidInput(None, "the header field Host is not a host name with an optional port")


def _split_target(target: bytes) -> tuple[bytes, bytes]:
    if target[:1] != b"/" or not target.isascii():
        raise InvalidInput(None, "the request target must be a path that starts with /")
    raw_path, _, query = target.partition(b"?")
    return raw_path, query


def _content_bytes(fields: dict[bytes, bytes], is_http11: bool, limits: DoorLimits) -> int | None:
    encoding = fields.get(b"content-encoding")
    if encoding is not None and encoding.rstrip(_BLANKS).lower() != b"identity":
        raise UnsupportedMedia("Compressed bodies are not read here; send it without Content-Encoding.")
    coding = fields.get(b"transfer-encoding")
    if coding is not None:
        if coding.rstrip(_BLANKS).lower() != b"chunked" or not is_http11:
            raise InvalidInput(None, "the only Transfer-Encoding read here is chunked, over HTTP/1.1")
        return None
    announced = fields.get(b"content-length")
    if announced is None:
        return 0
    # The parser has refused everything but digits.
    content_bytes = int(announced)
    if content_bytes > limits.max_body_bytes:
        raise body_too_long(limits)
    return content_bytes


def _awaits_continue(expect: bytes) -> bool:
    if expect.rstrip(_BLANKS).lower() != b"100-continue":
        raise InvalidInput(None, "the only Expect known here is 100-continue")
    return True
