"""HTTP responses of the servers that Outpace puts in front of engines, as bytes."""

from outpace.engines.wire import ENCODE

_PHRASES = {
    200: b"OK",
    400: b"Bad Request",
    401: b"Unauthorized",
    404: b"Not Found",
    500: b"Internal Server Error",
    503: b"Service Unavailable",
}
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
STREAM_END = b"0\r\n\r\n"


def json_response(status: int, body: bytes, content_type: bytes = b"application/json") -> bytes:
    """A whole HTTP response."""
    phrase = _PHRASES.get(status, b"Status")
    head = b"HTTP/1.1 %d %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n"
    return head % (status, phrase, content_type, len(body)) + body


def error_body(message: str, code: str | None, param: str | None = None) -> bytes:
    """An error in OpenAI's envelope."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return ENCODE({"error": error})


def chunk(payload: bytes) -> bytes:
    """`payload` as one HTTP chunk; nothing for an empty one, which would end the body."""
    return b"%x\r\n%s\r\n" % (len(payload), payload) if payload else b""
