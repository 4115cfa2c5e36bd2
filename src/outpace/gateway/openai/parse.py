"""From the wire to values: strict decoding, then what one field cannot know of another. All refusals name a field."""

from typing import TypeVar

import msgspec

from outpace.gateway.openai.freeform import check_freeform
from outpace.gateway.openai.messages import check_messages
from outpace.gateway.openai.prompts import check_prompt
from outpace.gateway.openai.schemas import check_schema
from outpace.gateway.openai.tools import check_tools
from outpace.gateway.openai.wording import not_json, wrong_value
from outpace.values.errors import InvalidInput
from outpace.values.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    EngineBound,
    JsonSchemaFormat,
    num_prompts,
)

MAX_CHOICES = 128
_MAX_INPUTS = 2_048
# Of a token id: none is above 2^31.
_MOST_DIGITS = 10
_T = TypeVar("_T")
_CHAT = msgspec.json.Decoder(ChatRequest)
_COMPLETION = msgspec.json.Decoder(CompletionRequest)
_EMBEDDING = msgspec.json.Decoder(EmbeddingRequest)


def parse_chat(raw: bytes) -> ChatRequest:
    """The request in a chat body. Raises InvalidInput naming the field."""
    request = _decode(_CHAT, ChatRequest, raw)
    check_freeform(request, raw)
    check_messages(request.messages)
    _check_stream(request)
    if request.top_logprobs and not request.logprobs:
        raise InvalidInput("top_logprobs", "needs `logprobs: true`")
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        raise InvalidInput("max_tokens", "give either max_tokens or max_completion_tokens, not both")
    check_tools(request)
    if isinstance(request.response_format, JsonSchemaFormat):
        check_schema(request.response_format.json_schema.schema, "response_format.json_schema.schema")
    return request


def parse_completion(raw: bytes) -> CompletionRequest:
    """The request in a completion body. Raises InvalidInput naming the field."""
    request = _decode(_COMPLETION, CompletionRequest, raw)
    check_prompt(request.prompt, "prompt", _MAX_INPUTS)
    _check_stream(request)
    n = request.n or 1
    if request.best_of is not None and request.best_of < n:
        raise InvalidInput("best_of", f"must be at least n ({n})")
    num_generated = num_prompts(request.prompt) * max(n, request.best_of or 0)
    if num_generated > MAX_CHOICES:
        raise InvalidInput(
            "n", f"prompts times n (or best_of) may be at most {MAX_CHOICES}, not {num_generated}"
        )
    if request.stream and (request.best_of or 0) > n:
        raise InvalidInput("best_of", "above n cannot be streamed; leave out `stream`")
    if request.max_tokens == 0 and not request.echo:
        raise InvalidInput("max_tokens", "0 needs `echo: true`; without it nothing would be answered")
    return request


def parse_embedding(raw: bytes) -> EmbeddingRequest:
    """The request in an embedding body. Raises InvalidInput naming the field."""
    request = _decode(_EMBEDDING, EmbeddingRequest, raw)
    check_prompt(request.input, "input", _MAX_INPUTS)
    return request


def _decode(decoder: "msgspec.json.Decoder[_T]", kind: type[_T], raw: bytes) -> _T:
    """A name that stands twice in an object counts where it stands last; engines see only what was checked."""
    try:
        return decoder.decode(raw)
    except RecursionError:
        raise InvalidInput(None, "The body is nested too deeply; flatten it.") from None
    except msgspec.ValidationError as error:
        raise wrong_value(str(error), kind) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise not_json(str(error), raw) from None


def _check_stream(request: EngineBound) -> None:
    if isinstance(request, EmbeddingRequest):
        return
    if request.stream_options is not None and not request.stream:
        raise InvalidInput("stream_options", "needs `stream: true`")
    if request.logit_bias:
        for key in request.logit_bias:
            if not key.isascii() or not key.isdigit() or len(key) > _MOST_DIGITS:
                raise InvalidInput("logit_bias", 'keys are token ids, such as "1234"')
