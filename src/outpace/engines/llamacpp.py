"""llama.cpp, the default CPU engine: launch, translation and its quirks hidden.

Honoured, per endpoint: see PARAMETERS. What is not sent keeps llama.cpp's sampling defaults (temperature 0.8,
top_p 0.95, top_k 40, min_p 0.05).
- `seed` is taken modulo 2^32. The same seed gives the same text; under load rounding in batches can differ, so
  `deterministic` is not declared.
- Penalties count the whole text.
- `tool_choice` `required` or a name is forced by grammar; `auto` needs a template that shows tools (setting `tools`).
- `echo` repeats text prompts; not with `logprobs`. `chat_template_kwargs` takes flags and short words.
- Refused: `suffix`, `best_of`, `min_tokens`, `stop_token_ids`, `return_token_ids`, `reasoning_effort`, `verbosity`,
  `dimensions`, parts that are no text, custom tools.
The leg to llama.cpp is always a stream, folded for requests that do not stream: only a stream is given up when its
connection closes (a plain request was seen to run to its end), counts every choice, and tells the prompt's length
early. An embedding request runs to its end. Cached beginnings of prompts are shared between keys; the setting
`prefix_caching` ends that.
"""

import re
from functools import partial
from typing import Any

from outpace.engines import child
from outpace.engines.continuing import behind_chat, behind_completion
from outpace.engines.folding import FoldingReader
from outpace.engines.llamacpp_body import chat_body, completion_body, embedding_body
from outpace.engines.llamacpp_config import LlamaConfig, LlamaSettings
from outpace.engines.llamacpp_reader import LlamaReader, StreamPlan, too_long
from outpace.engines.openai_body import PATHS, wants_usage
from outpace.engines.parameters import Declared, settings_of
from outpace.engines.protocol import NO_HINTS, Call, Capabilities, Hints, Load, Readiness
from outpace.engines.readers import AnswerReader
from outpace.engines.refusals import EngineError, parse_error, refused, translate
from outpace.engines.tools import plan_tools
from outpace.engines.wire import ENCODE
from outpace.values.deployment import Launch, LaunchOrder, Task
from outpace.values.errors import EngineFailed, InvalidInput, OutpaceError
from outpace.values.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    EngineBound,
    num_prompts,
    output_limit_tokens,
)
from outpace.values.snapshot import DeploymentEntry

_TEXT = {
    "frequency_penalty",
    "ignore_eos",
    "logit_bias",
    "logprobs",
    "max_tokens",
    "min_p",
    "n",
    "presence_penalty",
    "repetition_penalty",
    "seed",
    "stop",
    "temperature",
    "top_k",
    "top_p",
}
_CHAT = {
    "chat_template_kwargs",
    "max_completion_tokens",
    "messages",
    "parallel_tool_calls",
    "response_format",
    "tool_choice",
    "tools",
    "top_logprobs",
}
PARAMETERS: dict[Task, frozenset[str]] = {
    "chat": frozenset(_TEXT | _CHAT),
    "completions": frozenset({*_TEXT, "prompt", "echo"}),
    "embeddings": frozenset({"input", "encoding_format"}),
}
_MODULE = "outpace.engines.llamacpp_main"
_DECLARED = Declared("llamacpp", PARAMETERS)
_ORDERED = frozenset({"parallel", "context_tokens", "threads"})
_EMBEDDING_TOO_LONG = re.compile(r"input \((\d+) tokens\) is too large to process.*batch size: (\d+)")
# What llama.cpp puts before the part of a message that tells something.
_PREAMBLE = re.compile(r"^Unable to generate parser for this template\. Automatic parser generation failed: ")
_RUNNING = re.compile(rb"^llamacpp:requests_processing (\S+)", re.M)
_WAITING = re.compile(rb"^llamacpp:requests_deferred (\S+)", re.M)


class LlamaCpp:
    """Adapter of `outpace.engines.llamacpp_child`."""

    name = "llamacpp"
    load_path: str | None = "/metrics"
    capabilities = Capabilities(
        tasks=frozenset({"chat", "completions", "embeddings"}),
        parameters=PARAMETERS,
        standby_module=_MODULE,
        standby_takes_memory=True,
        continues=True,
    )

    def launch(self, order: LaunchOrder) -> Launch:
        settings = settings_of(order.engine_settings, LlamaSettings, self.name, _ORDERED)
        if order.artifact_path is None:
            raise InvalidInput("model", f"{order.model} has no weights file; llama.cpp needs a GGUF")
        if settings.speculation == "draft" and not settings.draft_path:
            raise InvalidInput("draft_path", "is missing; speculation with a draft model needs its GGUF")
        path = child.socket_path(order)
        config = LlamaConfig(
            **{name: getattr(settings, name) for name in LlamaSettings.__struct_fields__},
            socket_path=path,
            model_path=order.artifact_path,
            alias=order.deployment,
            parallel=order.parallel,
            context_tokens=order.context_tokens,
            threads=order.threads,
            embeddings="embeddings" in order.tasks,
            memory_bytes=order.memory_bytes,
        )
        weights = tuple(filter(None, (order.artifact_path, settings.draft_path)))
        return child.launch_module(_MODULE, config, path, order.token, weights)

    def readiness(self, deployment: DeploymentEntry) -> Readiness:
        is_embedding = deployment.tasks == ("embeddings",)
        body: dict[str, object] = {"model": deployment.engine_model}
        body |= {"input": "ready"} if is_embedding else {"prompt": "ready", "max_tokens": 1, "temperature": 0}
        path = PATHS["embeddings" if is_embedding else "completions"]
        return Readiness(path="/health", token_path=path, token_body=ENCODE(body))

    def call(
        self, request: EngineBound, deployment: DeploymentEntry, request_id: str, hints: Hints = NO_HINTS
    ) -> Call:
        _DECLARED.check(request)
        if isinstance(request, ChatRequest):
            return self._chat(behind_chat(request, hints), deployment, goes_on=bool(hints.sent_text))
        if isinstance(request, CompletionRequest):
            return self._completion(behind_completion(request, hints), deployment)
        return self._embedding(request, deployment)

    def load(self, body: bytes) -> Load:
        running, waiting = _RUNNING.search(body), _WAITING.search(body)
        if running is None or waiting is None:
            raise EngineFailed("llama.cpp's metrics do not tell its load.")
        return Load(running=int(float(running[1])), waiting=int(float(waiting[1])))

    def error(self, status: int, body: bytes) -> OutpaceError:
        return _error(1, True, status, body)

    def _chat(self, request: ChatRequest, deployment: DeploymentEntry, *, goes_on: bool) -> Call:
        tools = plan_tools(request, bool(deployment.engine_settings.get("tools")))
        body = chat_body(request, deployment, tools)
        if goes_on:
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        plan = StreamPlan(
            is_chat=True,
            wants_usage=bool(request.stream) and wants_usage(request),
            num_choices=request.n or 1,
            output_tokens=output_limit_tokens(request),
            context_tokens=deployment.context_tokens,
            top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
            tools=tools,
        )
        return _leg(PATHS["chat"], body, plan, bool(request.stream))

    def _completion(self, request: CompletionRequest, deployment: DeploymentEntry) -> Call:
        body = completion_body(request, deployment)
        plan = StreamPlan(
            is_chat=False,
            wants_usage=bool(request.stream) and wants_usage(request),
            num_choices=request.n or 1,
            num_prompts=num_prompts(request.prompt),
            output_tokens=body["max_tokens"],
            context_tokens=deployment.context_tokens,
            top_logprobs=request.logprobs,
            echoed=_echoed(request),
            is_output_dropped=request.max_tokens == 0,
        )
        return _leg(PATHS["completions"], body, plan, bool(request.stream))

    def _embedding(self, request: EmbeddingRequest, deployment: DeploymentEntry) -> Call:
        body = ENCODE(embedding_body(request, deployment))
        return Call(path=PATHS["embeddings"], body=body, reader=AnswerReader(partial(_error, 0, False)))


def _leg(path: str, body: dict[str, Any], plan: StreamPlan, is_stream: bool) -> Call:
    """The call and its reader: a stream, folded when the client wants one answer."""
    body["stream"] = True
    body["stream_options"] = {"include_usage": True}
    body["return_progress"] = True
    events = LlamaReader(partial(_error, plan.output_tokens or 1, plan.is_chat), plan)
    reader = events if is_stream else FoldingReader(events, plan.is_chat)
    return Call(path=path, body=ENCODE(body), reader=reader)


def _echoed(request: CompletionRequest) -> tuple[str, ...]:
    if not request.echo:
        return ()
    return (request.prompt,) if isinstance(request.prompt, str) else tuple(request.prompt)


def _error(output_tokens: int, is_chat: bool, status: int, body: bytes) -> OutpaceError:
    """llama.cpp's error in our terms."""
    error = parse_error(body)
    if error is None:
        return translate(status, body)
    if error.n_ctx is not None and error.n_prompt_tokens is not None:
        return too_long(error.n_ctx, error.n_prompt_tokens, output_tokens, is_chat)
    found = _EMBEDDING_TOO_LONG.search(error.message)
    if found:
        problem = too_long(int(found[2]), int(found[1]), 0, is_chat)
        problem.param = "input"
        return problem
    if status == 400:
        return _refusal(error)
    return translate(status, body)


def _refusal(error: EngineError) -> OutpaceError:
    message = _PREAMBLE.sub("", error.message)
    refusal = refused(EngineError(message=message))
    if "JSON schema" in message or "grammar" in message:
        refusal.param = "response_format"
    return refusal
