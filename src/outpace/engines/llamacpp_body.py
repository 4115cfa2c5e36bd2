"""A parsed request in llama.cpp's words: an allow-list, renamed and clamped where llama.cpp differs."""

from typing import Any

import msgspec

from outpace.engines.messages import Defuse, defuser, rendered, with_tools_told
from outpace.engines.openai_body import require_echo
from outpace.engines.template_kwargs import checked_kwargs
from outpace.engines.tools import ToolPlan
from outpace.values.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    JsonObjectFormat,
    JsonSchemaFormat,
)
from outpace.values.snapshot import DeploymentEntry

_SAME = (
    "temperature",
    "top_p",
    "n",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "top_k",
    "min_p",
    "ignore_eos",
)
# llama.cpp keeps seeds in 32 bits and takes the largest for "random".
_SEED_BITS = 0xFFFFFFFF


def chat_body(request: ChatRequest, deployment: DeploymentEntry, tools: ToolPlan) -> dict[str, Any]:
    """The body of a chat, but for how it is to be answered (stream, progress)."""
    native = bool(deployment.engine_settings.get("tools"))
    defuse = defuser(deployment.control_texts)
    messages = rendered(request.messages, defuse, native)
    if tools.forced:
        messages = with_tools_told(messages, tools.forced, defuse)
    body = _sampling(request, deployment.engine_model)
    body["messages"] = messages
    limit = request.max_completion_tokens or request.max_tokens
    if limit is not None:
        body["max_tokens"] = limit
    if request.logprobs:
        body["logprobs"] = True
        body["top_logprobs"] = request.top_logprobs or 1
    _add_format(body, request, tools, defuse)
    if request.chat_template_kwargs:
        body["chat_template_kwargs"] = checked_kwargs(request.chat_template_kwargs, defuse)
    return body


def completion_body(request: CompletionRequest, deployment: DeploymentEntry) -> dict[str, Any]:
    """The body of a completion, but for how it is to be answered."""
    if request.echo:
        require_echo(request)
    body = _sampling(request, deployment.engine_model)
    body["prompt"] = request.prompt
    # llama.cpp has no default limit and generates a token for 0.
    body["max_tokens"] = 16 if request.max_tokens is None else max(request.max_tokens, 1)
    if request.logprobs is not None:
        body["logprobs"] = max(request.logprobs, 1)
    return body


def embedding_body(request: EmbeddingRequest, deployment: DeploymentEntry) -> dict[str, Any]:
    """The body of an embedding."""
    body: dict[str, Any] = {"model": deployment.engine_model, "input": request.input}
    if request.encoding_format is not None:
        body["encoding_format"] = request.encoding_format
    return body


def _sampling(request: ChatRequest | CompletionRequest, model: str) -> dict[str, Any]:
    body = {name: value for name in _SAME if (value := getattr(request, name)) is not None}
    body["model"] = model
    if request.seed is not None:
        body["seed"] = min(request.seed & _SEED_BITS, _SEED_BITS - 1)
    if request.repetition_penalty is not None:
        body["repeat_penalty"] = request.repetition_penalty
    if request.presence_penalty or request.frequency_penalty or request.repetition_penalty:
        # All of the text counts, not llama.cpp's last 64 tokens.
        body["repeat_last_n"] = -1
    return body


def _add_format(body: dict[str, Any], request: ChatRequest, tools: ToolPlan, defuse: Defuse) -> None:
    if tools.forced:
        body["response_format"] = _schema_format(tools.schema())
        return
    if tools.offered:
        offered = msgspec.json.encode(tools.offered).decode()
        body["tools"] = msgspec.Raw(defuse(offered).encode())
        body["tool_choice"] = "auto"
        if request.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = request.parallel_tool_calls
    if isinstance(request.response_format, JsonObjectFormat):
        body["response_format"] = _schema_format({"type": "object"})
    elif isinstance(request.response_format, JsonSchemaFormat):
        body["response_format"] = _schema_format(request.response_format.json_schema.schema or {})


def _schema_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
