"""A parsed request as the body for our OpenVINO server: an allow-list, defused, defaults filled in."""

from typing import Any

import msgspec

from outpace.engines.messages import defuser, rendered, with_tools_told
from outpace.engines.openai_body import require_echo
from outpace.engines.openvino_wire import Ask
from outpace.engines.parameters import unsupported
from outpace.engines.protocol import NO_HINTS, Hints
from outpace.engines.template_kwargs import checked_kwargs
from outpace.engines.tools import ToolPlan, plan_tools
from outpace.values.errors import UnsupportedParameter
from outpace.values.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    EngineBound,
    JsonObjectFormat,
    JsonSchemaFormat,
)
from outpace.values.snapshot import DeploymentEntry

_SAME = (
    "n",
    "min_tokens",
    "stop_token_ids",
    "seed",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "ignore_eos",
)
_DEFAULT_COMPLETION_TOKENS = 16


def ask_of(request: EngineBound, deployment: DeploymentEntry, hints: Hints = NO_HINTS) -> Ask:
    """The body for one request. Raises UnsupportedParameter by name."""
    assert not isinstance(request, EmbeddingRequest), "refused before: no embeddings are declared"
    asked = _common(request, deployment)
    if isinstance(request, ChatRequest):
        asked |= _chat(request, deployment)
    else:
        asked |= _completion(request)
    return Ask(**asked, speculate=hints.speculate is not False, cache_salt=hints.cache_salt or "")


def _common(request: ChatRequest | CompletionRequest, deployment: DeploymentEntry) -> dict[str, Any]:
    asked = {name: value for name in _SAME if (value := getattr(request, name)) is not None}
    asked["model"] = deployment.engine_model
    asked["stream"] = bool(request.stream)
    if request.stop is not None:
        asked["stop"] = [request.stop] if isinstance(request.stop, str) else request.stop
    return asked


def _chat(request: ChatRequest, deployment: DeploymentEntry) -> dict[str, Any]:
    if request.top_logprobs:
        raise unsupported("top_logprobs", "openvino", "0 works: the chosen token's log-probability")
    defuse = defuser(deployment.control_texts)
    tools = _forced(request)
    messages = rendered(request.messages, defuse, native_tools=False)
    if tools.forced:
        messages = with_tools_told(messages, tools.forced, defuse)
    asked: dict[str, Any] = {
        "messages": messages,
        "max_tokens": request.max_completion_tokens or request.max_tokens,
        "logprobs": bool(request.logprobs),
    }
    schema = _schema(request, tools)
    if schema is not None:
        asked["json_schema"] = msgspec.Raw(msgspec.json.encode(schema))
    if tools.forced:
        asked["call"] = tools.forced_name or ""
    if request.chat_template_kwargs:
        asked["chat_template_kwargs"] = checked_kwargs(request.chat_template_kwargs, defuse)
    return asked


def _completion(request: CompletionRequest) -> dict[str, Any]:
    if request.echo:
        require_echo(request)
    if request.logprobs:
        raise unsupported("logprobs", "openvino", "0 works: the chosen token's log-probability")
    prompt = request.prompt
    is_one = isinstance(prompt, str) or not prompt or isinstance(prompt[0], int)
    return {
        "prompts": [prompt] if is_one else prompt,
        "max_tokens": _DEFAULT_COMPLETION_TOKENS if request.max_tokens is None else request.max_tokens,
        "logprobs": request.logprobs is not None,
        "echo": bool(request.echo),
    }


def _forced(request: ChatRequest) -> ToolPlan:
    plan = plan_tools(request, native_tools=True)
    if plan.offered:
        raise UnsupportedParameter(
            "tools",
            "this model's engine (openvino) does not let the model choose by itself; "
            'use tool_choice "required" or name a function, or choose another model',
        )
    return plan


def _schema(request: ChatRequest, tools: ToolPlan) -> dict[str, Any] | None:
    if tools.forced:
        return tools.schema()
    if isinstance(request.response_format, JsonObjectFormat):
        return {"type": "object"}
    if isinstance(request.response_format, JsonSchemaFormat):
        return request.response_format.json_schema.schema or {}
    return None
