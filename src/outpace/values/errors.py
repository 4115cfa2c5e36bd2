"""Every error that Outpace raises on purpose: a code, an HTTP status, and a remedy as message."""


class OutpaceError(Exception):
    """Base of all expected failures; `str(error)` is one line that says what to do."""

    code: str | None = "internal_error"
    status = 500
    kind = "server_error"
    # Told to SDKs in `x-should-retry`; None leaves the choice to them.
    should_retry: bool | None = None

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class InvalidInput(OutpaceError):
    """A value given by a user is wrong; `param` names it."""

    code = "invalid_value"
    status = 400
    kind = "invalid_request_error"

    def __init__(self, param: str | None, problem: str) -> None:
        super().__init__(f"{param}: {problem}" if param else problem, param=param)


class UnsupportedParameter(InvalidInput):
    """A known parameter that this model's engine cannot honour."""

    code = "unsupported_parameter"


class ContextTooLong(OutpaceError):
    """Prompt plus requested output exceed the model's context."""

    code = "context_length_exceeded"
    status = 400
    kind = "invalid_request_error"

    def __init__(self, context_tokens: int, prompt_tokens: int, output_tokens: int) -> None:
        super().__init__(
            f"This model's context holds {context_tokens} tokens; the request needs "
            f"{prompt_tokens + output_tokens} ({prompt_tokens} prompt, {output_tokens} output). "
            "Shorten the prompt or lower max_tokens.",
            param="messages",
        )


class InvalidKey(OutpaceError):
    """No key, or one that is malformed, unknown, revoked or expired."""

    code = "invalid_api_key"
    status = 401
    kind = "invalid_request_error"

    def __init__(self) -> None:
        super().__init__(
            "Invalid API key. Send `Authorization: Bearer KEY`; `outpace keys create` makes one."
        )


class ModelNotAllowed(OutpaceError):
    """The key is valid but may not use this model or route."""

    code = "model_not_allowed"
    status = 403
    kind = "permission_error"


class PriceMissing(OutpaceError):
    """A key with a budget asked for a deployment that has no price."""

    code = "price_missing"
    status = 403
    kind = "permission_error"


class ModelNotFound(OutpaceError):
    """No deployment answers to this name."""

    code = "model_not_found"
    status = 404
    kind = "invalid_request_error"

    def __init__(
        self, message: str = "The model does not exist. GET /v1/models lists what is served."
    ) -> None:
        super().__init__(message, param="model")


class NotFound(OutpaceError):
    """No such path or object."""

    code = "not_found"
    status = 404
    kind = "invalid_request_error"


class MethodNotAllowed(OutpaceError):
    """The path exists, this method does not."""

    code = "method_not_allowed"
    status = 405
    kind = "invalid_request_error"


class RequestTimedOut(OutpaceError):
    """The client sent its request too slowly."""

    code = "request_timeout"
    status = 408
    kind = "invalid_request_error"


class Conflict(OutpaceError):
    """The wanted change contradicts what exists."""

    code = "conflict"
    status = 409
    kind = "invalid_request_error"


class RequestTooLarge(OutpaceError):
    """The body exceeds the limit."""

    code = "request_too_large"
    status = 413
    kind = "invalid_request_error"


class UnsupportedMedia(OutpaceError):
    """A content type or encoding that is not read here."""

    code = "unsupported_media_type"
    status = 415
    kind = "invalid_request_error"


class RateLimited(OutpaceError):
    """A limit per minute is used up; `kind` says which (`requests` or `tokens`)."""

    code = "rate_limit_exceeded"
    status = 429

    def __init__(self, kind: str, message: str, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.kind = kind


class BudgetSpent(OutpaceError):
    """The key's money is spent or reserved by requests in flight."""

    code = "insufficient_quota"
    status = 429
    kind = "insufficient_quota"
    should_retry = False


class HeadersTooLarge(OutpaceError):
    """The request's head exceeds the limit."""

    code = "headers_too_large"
    status = 431
    kind = "invalid_request_error"


class EngineFailed(OutpaceError):
    """The engine died or answered something that is no answer."""

    code = "upstream_error"
    status = 502


class ModelLoading(OutpaceError):
    """The deployment has no ready replica yet."""

    code = "model_loading"
    status = 503


class Overloaded(OutpaceError):
    """No capacity now."""

    code = "overloaded"
    status = 503


class EngineTimedOut(OutpaceError):
    """The engine did not answer in time."""

    code = "timeout"
    status = 504


class WeightsInvalid(OutpaceError):
    """A weights file is truncated, corrupt or not what its hash says."""

    code = "weights_invalid"
    status = 409
    kind = "invalid_request_error"


class SourceUnreachable(OutpaceError):
    """A weights source could not be reached or does not have the file."""

    code = "source_unreachable"
    status = 502


class StorageFailed(OutpaceError):
    """The home folder cannot be written: no space, no permission, or a broken disk."""

    code = "storage_failed"
    status = 507
