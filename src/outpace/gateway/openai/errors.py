"""Errors as OpenAI's clients read them: the envelope, and the headers that steer their retries."""

import math

import msgspec

from outpace.values.errors import OutpaceError

_ENCODER = msgspec.json.Encoder()
_CHALLENGE = (b"www-authenticate", b"Bearer")


def error_body(error: OutpaceError) -> bytes:
    """The JSON envelope of an error; the four keys are always there."""
    return _ENCODER.encode(
        {
            "error": {
                "message": error.message,
                "type": error.kind,
                "param": error.param,
                "code": error.code,
            }
        }
    )


def error_headers(error: OutpaceError) -> list[tuple[bytes, bytes]]:
    """Headers that tell a client whether and when to try again, and how to authenticate."""
    headers: list[tuple[bytes, bytes]] = []
    if error.retry_after_s is not None:
        # `retry-after` is whole seconds by RFC 9110; SDKs prefer the exact `retry-after-ms`.
        wait_s = max(error.retry_after_s, 0.0)
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(wait_s))))
        headers.append((b"retry-after-ms", b"%d" % math.ceil(wait_s * 1000)))
    if error.should_retry is not None:
        headers.append((b"x-should-retry", b"true" if error.should_retry else b"false"))
    if error.status == 401:
        headers.append(_CHALLENGE)
    return headers
