"""The OpenAI wire as values: one struct per request, every field of the contract, nothing else accepted.

Ranges are in the types; what needs more than one field is checked in `gateway/openai`.
`omit_defaults` makes re-encoding the rebuild of the engine's body: only what was asked for is sent.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

Text = Annotated[str, Meta(max_length=16_000_000)]
Name = Annotated[str, Meta(max_length=256)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Probability = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
StopText = Annotated[str, Meta(min_length=1, max_length=1_024)]
Stop = StopText | Annotated[list[StopText], Meta(max_length=4)]
TokenCount = Annotated[int, Meta(ge=1, le=10_000_000)]
LogitBias = Annotated[dict[str, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=1_024)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class _Strict(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Base of all wire structs."""


# -- messages ---------------------------------------------------------------------------------


class TextPart(_Strict, tag_field="type", tag="text"):
    """A piece of text."""

    text: Text


class RefusalPart(_Strict, tag_field="type", tag="refusal"):
    """An assistant's earlier refusal."""

    refusal: Text


class ImageUrl(_Strict):
    """An image by URL or data URL."""

    url: Text
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(_Strict, tag_field="type", tag="image_url"):
    """An image in a message."""

    image_url: ImageUrl


class InputAudio(_Strict):
    """Base64 audio."""

    data: Text
    format: Literal["wav", "mp3"]


class AudioPart(_Strict, tag_field="type", tag="input_audio"):
    """Sound in a message."""

    input_audio: InputAudio


class FileRef(_Strict):
    """A file by id or content."""

    file_id: Name | None = None
    file_data: Text | None = None
    filename: Name | None = None


class FilePart(_Strict, tag_field="type", tag="file"):
    """A file in a message."""

    file: FileRef


UserPart = TextPart | ImagePart | AudioPart | FilePart


class FunctionCall(_Strict):
    """Name and JSON arguments of a call that the assistant made."""

    name: Name
    arguments: Text


class ToolCall(_Strict):
    """A tool call of an assistant message."""

    id: Name
    function: FunctionCall
    type: Literal["function"] = "function"


class SystemMessage(_Strict, tag_field="role", tag="system"):
    """Instructions."""

    content: Text | list[TextPart]
    name: Name | None = None


class DeveloperMessage(_Strict, tag_field="role", tag="developer"):
    """Instructions, by their newer name."""

    content: Text | list[TextPart]
    name: Name | None = None


class UserMessage(_Strict, tag_field="role", tag="user"):
    """What the user said."""

    content: Text | list[UserPart]
    name: Name | None = None


class AssistantMessage(_Strict, tag_field="role", tag="assistant"):
    """What the model said before."""

    content: Text | list[TextPart | RefusalPart] | None = None
    name: Name | None = None
    refusal: Text | None = None
    reasoning_content: Text | None = None
    tool_calls: Annotated[list[ToolCall], Meta(max_length=128)] | None = None
    function_call: FunctionCall | None = None
    audio: dict[str, Any] | None = None
    annotations: list[Any] | None = None


class ToolMessage(_Strict, tag_field="role", tag="tool"):
    """A tool's answer."""

    content: Text | list[TextPart]
    tool_call_id: Name
    name: Name | None = None


class FunctionMessage(_Strict, tag_field="role", tag="function"):
    """A function's answer, the old form."""

    content: Text | None
    name: Name


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage

# -- tools and formats ------------------------------------------------------------------------

FunctionName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.-]{1,64}\Z")]


class FunctionSpec(_Strict):
    """A function that the model may call."""

    name: FunctionName
    description: Annotated[str, Meta(max_length=65_536)] | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(_Strict, tag_field="type", tag="function"):
    """A function offered as a tool."""

    function: FunctionSpec


class CustomTool(_Strict, tag_field="type", tag="custom"):
    """A free-text tool."""

    custom: dict[str, Any]


class NamedFunction(_Strict):
    """The name in a tool choice."""

    name: FunctionName


class FunctionChoice(_Strict, tag_field="type", tag="function"):
    """A tool choice that names one function."""

    function: NamedFunction


class CustomChoice(_Strict, tag_field="type", tag="custom"):
    """A tool choice that names one custom tool."""

    custom: NamedFunction


class AllowedTools(_Strict):
    """A subset of the tools."""

    mode: Literal["auto", "required"]
    tools: list[dict[str, Any]]


class AllowedToolsChoice(_Strict, tag_field="type", tag="allowed_tools"):
    """A tool choice that narrows the tools."""

    allowed_tools: AllowedTools


ToolChoice = Literal["none", "auto", "required"] | FunctionChoice | CustomChoice | AllowedToolsChoice


class TextFormat(_Strict, tag_field="type", tag="text"):
    """Free text."""


class JsonObjectFormat(_Strict, tag_field="type", tag="json_object"):
    """Any JSON object."""


class JsonSchema(_Strict):
    """A named JSON schema."""

    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}\Z")]
    schema: dict[str, Any] | None = None
    description: Annotated[str, Meta(max_length=65_536)] | None = None
    strict: bool | None = None


class JsonSchemaFormat(_Strict, tag_field="type", tag="json_schema"):
    """JSON that follows a schema."""

    json_schema: JsonSchema


ResponseFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat


class StreamOptions(_Strict):
    """What a stream carries besides deltas."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None


class ChatRequest(_Strict):
    """`POST /v1/chat/completions`."""

    model: Text
    messages: Annotated[list[Message], Meta(min_length=1, max_length=10_000)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: TokenCount | None = None
    max_tokens: TokenCount | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    stop: Stop | None = None
    seed: Seed | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[FunctionTool | CustomTool], Meta(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[FunctionSpec], Meta(max_length=128)] | None = None
    function_call: Literal["none", "auto"] | NamedFunction | None = None
    user: Name | None = None
    safety_identifier: Annotated[str, Meta(max_length=64)] | None = None
    prompt_cache_key: Name | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    prompt_cache_options: dict[str, Any] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    modalities: list[Literal["text", "audio"]] | None = None
    audio: dict[str, Any] | None = None
    prediction: dict[str, Any] | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority"] | None = None
    store: bool | None = None
    metadata: (
        Annotated[
            dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
            Meta(max_length=16),
        ]
        | None
    ) = None
    web_search_options: dict[str, Any] | None = None
    moderation: dict[str, Any] | None = None
    # engine extras
    top_k: Annotated[int, Meta(ge=-1, le=1_000_000)] | None = None
    min_p: Probability | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=10_000_000)] | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=64)] | None = None
    return_token_ids: bool | None = None


class CompletionRequest(_Strict):
    """`POST /v1/completions`; `prompt` is a string, strings, token ids or lists of token ids."""

    model: Text
    # Four JSON shapes that msgspec cannot tell apart in one union: checked in `gateway/openai/prompts`.
    prompt: Any
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=0, le=10_000_000)] | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    best_of: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: bool | None = None
    suffix: Text | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    stop: Stop | None = None
    seed: Seed | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    user: Name | None = None
    # engine extras
    top_k: Annotated[int, Meta(ge=-1, le=1_000_000)] | None = None
    min_p: Probability | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=10_000_000)] | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=64)] | None = None
    return_token_ids: bool | None = None


class EmbeddingRequest(_Strict):
    """`POST /v1/embeddings`; `input` has the four prompt forms."""

    model: Text
    input: Any
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, le=65_536)] | None = None
    user: Name | None = None


EngineBound = ChatRequest | CompletionRequest | EmbeddingRequest
Endpoint = Literal["chat", "completions", "embeddings"]


def endpoint_of(request: EngineBound) -> Endpoint:
    """The endpoint that a parsed request came through."""
    if isinstance(request, ChatRequest):
        return "chat"
    if isinstance(request, CompletionRequest):
        return "completions"
    return "embeddings"


def num_choices(request: EngineBound) -> int:
    """How many answers will be generated: `n`, times the prompts of a completion."""
    if isinstance(request, ChatRequest):
        return request.n or 1
    if isinstance(request, CompletionRequest):
        return (request.n or 1) * num_prompts(request.prompt)
    return 0


def num_prompts(prompt: object) -> int:
    """Prompts in one of the four prompt forms."""
    if not isinstance(prompt, list):
        return 1
    return len(prompt) if prompt and isinstance(prompt[0], str | list) else 1


def output_limit_tokens(request: EngineBound) -> int | None:
    """Most tokens that one choice may produce as asked; None when the request leaves it open."""
    if isinstance(request, ChatRequest):
        return request.max_completion_tokens or request.max_tokens
    if isinstance(request, CompletionRequest):
        return 16 if request.max_tokens is None else request.max_tokens
    return 0


ENCODER = msgspec.json.Encoder()
