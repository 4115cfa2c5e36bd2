"""From the wire to values: strict decoding, then what one field cannot know of another. All refusals name a field."""

import re
from typing import NoReturn, TypeVar

import msgspec

from outpace.gateway.openai.messages import check_messages
from outpace.gateway.openai.prompts import check_prompt
from outpace.gateway.openai.schemas import check_schema
from outpace.gateway.openai.tools import check_tools
from outpace.values.errors import InvalidInput
from outpace.values.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    EngineBound,
    JsonSchemaFormat,
    num_choices,
)

MAX_CHOICES = 128
_MAX_INPUTS = 2_048
_T = TypeVar("_T")
_CHAT = msgspec.json.Decoder(ChatRequest)
_COMPLETION = msgspec.json.Decoder(CompletionRequest)
_EMBEDDING = msgspec.json.Decoder(EmbeddingRequest)
_PLACE = re.compile(r" - at `(?:key in )?\$\.?(.*)`$", re.DOTALL)
_LONGEST_WORD = 200


def parse_chat(raw: bytes) -> ChatRequest:
    """The request in a chat body. Raises InvalidInput naming the field."""
    request = _decode(_CHAT, raw)
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
    request = _decode(_COMPLETION, raw)
    check_prompt(request.prompt, "prompt", _MAX_INPUTS)
    _check_stream(request)
    n = request.n or 1
    if request.best_of is not None and request.best_of < n:
        raise InvalidInput("best_of", f"must be at least n ({n})")
    if max(num_choices(request), request.best_of or 0) > MAX_CHOICES:
        raise InvalidInput("n", f"prompts times n may be at most {MAX_CHOICES}")
    if request.max_tokens == 0 and not request.echo:
        raise InvalidInput("max_tokens", "0 needs `echo: true`; without it nothing would be answered")
    return request


def parse_embedding(raw: bytes) -> EmbeddingRequest:
    """The request in an embedding body. Raises InvalidInput naming the field."""
    request = _decode(_EMBEDDING, raw)
    check_prompt(request.input, "input", _MAX_INPUTS)
    return request


def _decode(decoder: "msgspec.json.Decoder[_T]", raw: bytes) -> _T:
    try:
        return decoder.decode(raw)
    except RecursionError:
        raise InvalidInput(None, "The body is nested too deeply.") from None
    except msgspec.ValidationError as error:
        _refuse(str(error))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(None, f"The body is not JSON: {error}") from None


def _refuse(problem: str) -> NoReturn:
    place = _PLACE.search(problem)
    problem = _PLACE.sub("", problem)[:_LONGEST_WORD]
    unknown = re.match(r"Object contains unknown field `(.*)`", problem, re.DOTALL)
    missing = re.match(r"Object missing required field `(.*)`", problem)
    where = place.group(1)[:_LONGEST_WORD] if place else ""
    if unknown:
        raise InvalidInput(
            _joined(where, unknown.group(1)), "is not a field that is known here; leave it out"
        )
    if missing:
        raise InvalidInput(_joined(where, missing.group(1)), "is required")
    raise InvalidInput(where or None, problem[:1].lower() + problem[1:] if where else problem)


def _joined(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _check_stream(request: EngineBound) -> None:
    if isinstance(request, EmbeddingRequest):
        return
    if request.stream_options is not None and not request.stream:
        raise InvalidInput("stream_options", "needs `stream: true`")
    if request.logit_bias:
        for key in request.logit_bias:
            if not key.isascii() or not key.isdigit():
                raise InvalidInput("logit_bias", 'keys are token ids, such as "1234"')
