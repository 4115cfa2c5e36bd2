"""Bodies for servers that take OpenAI's wire and extras of their own: vLLM, SGLang, TensorRT-LLM, Triton.

An allow-list: what a caller sends beyond it never reaches the engine. The leg is always a stream with running usage.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from outpace.engines.messages import Defuse, defuser, rendered, with_tools_told
from outpace.engines.protocol import Hints
from outpace.engines.template_kwargs import checked_kwargs
from outpace.engines.tools import ToolPlan
from outpace.values.errors import UnsupportedParameter
from outpace.values.requests import ChatRequest, CompletionRequest, JsonSchemaFormat
from outpace.values.snapshot import DeploymentEntry

_SAME = (
    "frequency_penalty",
    "ignore_eos",
    "logit_bias",
    "min_p",
    "min_tokens",
    "n",
    "presence_penalty",
    "repetition_penalty",
    "seed",
    "stop",
    "stop_token_ids",
    "temperature",
    "top_k",
    "top_p",
)
_USAGE = {"include_usage": True}
_RUNNING_USAGE = {**_USAGE, "continuous_usage_stats": True}


class Quirks(msgspec.Struct, frozen=True, kw_only=True):
    """Where these servers differ from each other in what they take."""

    # The field that makes the last message go on instead of being answered; "" when there is none.
    continues_with: Mapping[str, bool] = {}
    # Takes `cache_salt`, which keeps cached prefixes of tenants apart.
    has_cache_salt: bool = False
    # Tells usage with every event when asked; TensorRT-LLM and Triton refuse or ignore the question.
    has_running_usage: bool = True
    # Takes `request_id`; without one it may use the caller's header as its own key.
    has_request_id: bool = False


def chat_body(
    request: ChatRequest,
    deployment: DeploymentEntry,
    tools: ToolPlan,
    quirks: Quirks,
    request_id: str,
    hints: Hints,
) -> dict[str, Any]:
    """The body of a chat."""
    native = bool(deployment.engine_settings.get("tool_parser"))
    defuse = defuser(deployment.control_texts)
    messages = rendered(request.messages, defuse, native)
    if tools.forced:
        messages = with_tools_told(messages, tools.forced, defuse)
    body = _common(request, deployment.engine_model, quirks, request_id, hints)
    body["messages"] = messages
    limit = request.max_completion_tokens or request.max_tokens
    if limit is not None:
        body["max_tokens"] = limit - hints.sent_tokens
    if request.logprobs:
        body["logprobs"] = True
        body["top_logprobs"] = request.top_logprobs or 0
    _add_format(body, request, tools, defuse)
    if request.chat_template_kwargs:
        body["chat_template_kwargs"] = checked_kwargs(request.chat_template_kwargs, defuse)
    if hints.sent_text:
        if not quirks.continues_with:
            raise UnsupportedParameter("messages", "this model's engine cannot go on with an answer")
        body["messages"] = [*messages, {"role": "assistant", "content": hints.sent_text}]
        body |= quirks.continues_with
    return body


def completion_body(
    request: CompletionRequest, deployment: DeploymentEntry, quirks: Quirks, request_id: str, hints: Hints
) -> dict[str, Any]:
    """The body of a completion."""
    body = _common(request, deployment.engine_model, quirks, request_id, hints)
    body["prompt"] = request.prompt
    body["max_tokens"] = (16 if request.max_tokens is None else request.max_tokens) - hints.sent_tokens
    if request.logprobs is not None:
        body["logprobs"] = request.logprobs
    if request.echo:
        body["echo"] = True
    if hints.sent_text:
        if not isinstance(request.prompt, str):
            raise UnsupportedParameter("prompt", "only an answer to one text can go on elsewhere")
        body["prompt"] = request.prompt + hints.sent_text
    return body


def _common(
    request: ChatRequest | CompletionRequest, model: str, quirks: Quirks, request_id: str, hints: Hints
) -> dict[str, Any]:
    body = {name: value for name in _SAME if (value := getattr(request, name)) is not None}
    if (request.n or 1) > 1 and request.temperature == 0:
        # Several greedy choices are refused; the most likely token at any temperature is the same text.
        body |= {"temperature": 1.0, "top_k": 1}
    usage = _RUNNING_USAGE if quirks.has_running_usage else _USAGE
    body |= {"model": model, "stream": True, "stream_options": usage}
    if quirks.has_request_id:
        body["request_id"] = request_id
    if quirks.has_cache_salt and hints.cache_salt:
        body["cache_salt"] = hints.cache_salt
    return body


def _add_format(body: dict[str, Any], request: ChatRequest, tools: ToolPlan, defuse: Defuse) -> None:
    if tools.forced:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "call", "schema": tools.schema()},
        }
        return
    if tools.offered:
        offered = msgspec.json.encode(tools.offered).decode()
        body["tools"] = msgspec.Raw(defuse(offered).encode())
        body["tool_choice"] = "auto"
        if request.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = request.parallel_tool_calls
    if isinstance(request.response_format, JsonSchemaFormat):
        schema = request.response_format.json_schema.schema or {}
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    elif request.response_format is not None:
        body["response_format"] = request.response_format
