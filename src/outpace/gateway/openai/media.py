"""The content type of a request: JSON, said or unsaid."""

from outpace.values.errors import UnsupportedMedia

# What `curl -d` and HTTP libraries write when their user said nothing: the body is parsed as JSON or refused as such.
_UNSAID = frozenset({b"application/x-www-form-urlencoded", b"application/octet-stream"})


def require_json(content_type: bytes) -> None:
    """Raise UnsupportedMedia for a body that says it is something else; `content_type` is empty when unsaid."""
    if content_type in (b"application/json", b""):
        return
    kind = content_type.partition(b";")[0].strip().lower()
    if kind in _UNSAID:
        return
    if kind != b"application/json" and not (kind.startswith(b"application/") and kind.endswith(b"+json")):
        raise UnsupportedMedia("The body must be JSON; send it with `Content-Type: application/json`.")
