"""Bodies for engines that speak the OpenAI wire: the parsed request, encoded anew under the engine's name."""

import msgspec

from outpace.values.errors import UnsupportedParameter
from outpace.values.requests import ENCODER, CompletionRequest, EngineBound, StreamOptions

PATHS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
}

# Asked of every stream: the bill needs it.
_WITH_USAGE = StreamOptions(include_usage=True)
# What no engine needs to know about the caller.
_PRIVATE = ("user", "metadata", "store", "safety_identifier", "prompt_cache_key", "service_tier")


def wants_usage(request: EngineBound) -> bool:
    """The client asked for the extra usage event."""
    options = getattr(request, "stream_options", None)
    return bool(options and options.include_usage)


def rebuilt(request: EngineBound, engine_model: str) -> bytes:
    """The body for an engine that understands every field that is left in `request`."""
    changes: dict[str, object] = {"model": engine_model}
    for name in _PRIVATE:
        if getattr(request, name, None) is not None:
            changes[name] = None
    if getattr(request, "stream", None):
        changes["stream_options"] = _WITH_USAGE
    elif hasattr(request, "stream_options"):
        changes["stream_options"] = None
    return ENCODER.encode(msgspec.structs.replace(request, **changes))


def require_echo(request: CompletionRequest) -> None:
    """Raise UnsupportedParameter where `echo` cannot be honoured by repeating the prompt's text."""
    prompt = request.prompt
    is_text = isinstance(prompt, str) or (isinstance(prompt, list) and prompt and isinstance(prompt[0], str))
    if not is_text:
        raise UnsupportedParameter("echo", "works with text prompts only on this model's engine")
    if request.logprobs is not None:
        raise UnsupportedParameter("echo", "does not go with logprobs on this model's engine; leave one out")
