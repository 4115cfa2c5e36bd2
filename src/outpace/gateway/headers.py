"""The head of every answer: request id, content type, timing and limits, encoded once."""

from outpace.gateway.openai.errors import error_headers
from outpace.metering import RateState
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
    for kind, bucket in ((b"requests", rate.requests), (b"tokens", rate.tokens)):
        if bucket is not None:
            head.append((b"x-ratelimit-limit-" + kind, b"%d" % bucket.limit))
            head.append((b"x-ratelimit-remaining-" + kind, b"%d" % bucket.remaining))
            head.append((b"x-ratelimit-reset-" + kind, duration_text(bucket.reset_s).encode()))
    return head


def duration_text(duration_s: float) -> str:
    """A duration as OpenAI writes it: `12ms`, `1s`, `6m0s`."""
    if duration_s < 1:
        return f"{round(duration_s * 1000)}ms"
    if duration_s < 60:
        return f"{duration_s:.3f}".rstrip("0").rstrip(".") + "s"
    minutes, seconds = divmod(round(duration_s), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + f"{minutes}m{seconds}s"
