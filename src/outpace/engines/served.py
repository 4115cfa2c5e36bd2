"""What the adapters of vLLM, SGLang, TensorRT-LLM and Triton share; they differ in launch and quirks."""

import re
from functools import partial

from outpace.engines.folding import FoldingReader
from outpace.engines.llamacpp_reader import StreamPlan, too_long
from outpace.engines.openai_body import PATHS, rebuilt, wants_usage
from outpace.engines.parameters import Declared
from outpace.engines.protocol import NO_HINTS, Call, Hints, Load, Readiness
from outpace.engines.readers import AnswerReader
from outpace.engines.refusals import parse_error, refused, translate
from outpace.engines.served_body import Quirks, chat_body, completion_body
from outpace.engines.served_reader import ServedReader
from outpace.engines.tools import ToolPlan, plan_tools
from outpace.engines.wire import ENCODE
from outpace.values.deployment import Task
from outpace.values.errors import EngineFailed, OutpaceError
from outpace.values.requests import (
    ChatRequest,
    CompletionRequest,
    EngineBound,
    num_prompts,
    output_limit_tokens,
)
from outpace.values.snapshot import DeploymentEntry

TEXT = frozenset(
    {
        "frequency_penalty",
        "ignore_eos",
        "logit_bias",
        "logprobs",
        "max_tokens",
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
    }
)
CHAT = frozenset(
    {
        "chat_template_kwargs",
        "max_completion_tokens",
        "messages",
        "parallel_tool_calls",
        "response_format",
        "tool_choice",
        "tools",
        "top_logprobs",
    }
)
PARAMETERS: dict[Task, frozenset[str]] = {
    "chat": TEXT | CHAT,
    "completions": TEXT | {"prompt", "echo"},
    "embeddings": frozenset({"input", "encoding_format", "dimensions"}),
}
_CONTEXT = re.compile(r"maximum context length is (\d+) tokens.*?(?:contains at least|has|contains) (\d+)")


class ServedEngine:
    """Calls, readers, load and errors of a server that speaks OpenAI's wire with running usage."""

    name = "served"
    load_path: str | None = "/metrics"
    readiness_path = "/health"
    start_deadline_s = 1800.0
    quirks = Quirks()
    parameters = PARAMETERS
    # Prometheus names of requests that run and wait, and of the KV cache's share in use.
    running_metric = ""
    waiting_metric = ""
    kv_metric = ""

    def __init__(self) -> None:
        self._declared = Declared(self.name, self.parameters)

    def readiness(self, deployment: DeploymentEntry) -> Readiness:
        is_embedding = deployment.tasks == ("embeddings",)
        body: dict[str, object] = {"model": deployment.engine_model}
        body |= {"input": "ready"} if is_embedding else {"prompt": "ready", "max_tokens": 1, "temperature": 0}
        path = PATHS["embeddings" if is_embedding else "completions"]
        return Readiness(
            path=self.readiness_path,
            token_path=path,
            token_body=ENCODE(body),
            start_deadline_s=self.start_deadline_s,
        )

    def call(
        self, request: EngineBound, deployment: DeploymentEntry, request_id: str, hints: Hints = NO_HINTS
    ) -> Call:
        self._declared.check(request)
        if isinstance(request, ChatRequest):
            return self._chat(request, deployment, request_id, hints)
        if isinstance(request, CompletionRequest):
            return self._completion(request, deployment, request_id, hints)
        body = rebuilt(request, deployment.engine_model)
        model = ENCODE(deployment.name)
        return Call(path=PATHS["embeddings"], body=body, reader=AnswerReader(self.error, model))

    def load(self, body: bytes) -> Load:
        running, waiting = metric(self.running_metric, body), metric(self.waiting_metric, body)
        if running is None or waiting is None:
            raise EngineFailed(f"{self.name}'s metrics do not tell its load.")
        return Load(running=int(running), waiting=int(waiting), kv_used_fraction=metric(self.kv_metric, body))

    def error(self, status: int, body: bytes) -> OutpaceError:
        return served_error(1, True, status, body)

    def _chat(self, request: ChatRequest, deployment: DeploymentEntry, request_id: str, hints: Hints) -> Call:
        tools = plan_tools(request, bool(deployment.engine_settings.get("tool_parser")))
        body = chat_body(request, deployment, tools, self.quirks, request_id, hints)
        top = (request.top_logprobs or 0) if request.logprobs else None
        plan = _plan(request, deployment, hints, tools, top)
        return self._leg("chat", ENCODE(body), plan, bool(request.stream), deployment)

    def _completion(
        self, request: CompletionRequest, deployment: DeploymentEntry, request_id: str, hints: Hints
    ) -> Call:
        body = completion_body(request, deployment, self.quirks, request_id, hints)
        plan = _plan(request, deployment, hints, ToolPlan(), request.logprobs)
        return self._leg("completions", ENCODE(body), plan, bool(request.stream), deployment)

    def _leg(
        self, task: Task, body: bytes, plan: StreamPlan, is_stream: bool, deployment: DeploymentEntry
    ) -> Call:
        error = partial(served_error, plan.output_tokens or 1, plan.is_chat)
        events = ServedReader(error, plan, deployment.name)
        reader = events if is_stream else FoldingReader(events, plan.is_chat)
        return Call(path=PATHS[task], body=body, reader=reader)


def _plan(
    request: ChatRequest | CompletionRequest,
    deployment: DeploymentEntry,
    hints: Hints,
    tools: ToolPlan,
    top_logprobs: int | None,
) -> StreamPlan:
    limit = output_limit_tokens(request)
    return StreamPlan(
        is_chat=isinstance(request, ChatRequest),
        wants_usage=bool(request.stream) and wants_usage(request),
        num_choices=request.n or 1,
        num_prompts=num_prompts(request.prompt) if isinstance(request, CompletionRequest) else 1,
        output_tokens=limit - hints.sent_tokens if limit is not None else None,
        context_tokens=deployment.context_tokens,
        top_logprobs=top_logprobs,
        tools=tools,
    )


def metric(name: str, body: bytes) -> float | None:
    """Sum of a Prometheus gauge over its labels; None when it is not there."""
    found = (
        re.findall(rb"^" + re.escape(name.encode()) + rb"(?:\{[^}]*\})? (\S+)", body, re.M) if name else []
    )
    return sum(map(float, found)) if found else None


def served_error(output_tokens: int, is_chat: bool, status: int, body: bytes) -> OutpaceError:
    """The server's error in our terms."""
    error = parse_error(body)
    found = _CONTEXT.search(error.message) if error else None
    if found:
        return too_long(int(found[1]), int(found[2]), output_tokens, is_chat)
    if error is not None and status == 400:
        error.code = None
        refusal = refused(error)
        if "rammar" in error.message or "schema" in error.message:
            refusal.param = "response_format"
        return refusal
    return translate(status, body)
