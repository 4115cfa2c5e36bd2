"""The head of every answer: request id, content type, timing and limits, encoded once."""

from outpace.gateway.openai.errors import error_headers
from outpace.metering import RateState, duration_text
from outpace.values.errors import OutpaceError

JSON = b"application/json"
SSE = b"text/event-stream"


def answer_head(
    request_id: str, content_type: bytes, processing_s: float | None = None, rate: RateState | None = None
) -> list[tuple[bytes, bytes]]:
    """Headers of a good answer."""
    head = [(b"content-type", content_type), (b"x-request-id", request_id.encode())]
    if processing_s is not None:
        head.append((b"openai-processing-ms", b"%d" % (processing_s * 1000)))
    if content_type is SSE:
        head.append((b"cache-control", b"no-cache"))
        head.append((b"x-accel-buffering", b"no"))
    if rate is not None:
        head.extend(rate_headers(rate))
    return head


def refusal_head(request_id: str, error: OutpaceError, rate: RateState | None) -> list[tuple[bytes, bytes]]:
    """Headers of an error."""
    return [*answer_head(request_id, JSON, rate=rate), *error_headers(error)]


def rate_headers(rate: RateState) -> list[tuple[bytes, bytes]]:
    """OpenAI's six; a limit that the key does not have is left out."""
    head: list[tuple[bytes, bytes]] = []
    for kind, limit, remaining, reset_s in (
        (b"requests", rate.limit_requests, rate.remaining_requests, rate.reset_requests_s),
        (b"tokens", rate.limit_tokens, rate.remaining_tokens, rate.reset_tokens_s),
    ):
        if limit is not None:
            head.append((b"x-ratelimit-limit-" + kind, b"%d" % limit))
            head.append((b"x-ratelimit-remaining-" + kind, b"%d" % (remaining or 0)))
            head.append((b"x-ratelimit-reset-" + kind, duration_text(reset_s or 0.0).encode()))
    return head
