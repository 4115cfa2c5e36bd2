"""OpenVINO GenAI, the CPU engine for many users: launch and translation; the server is `openvino_child`.

What is not sent keeps the sampling defaults of the llama.cpp engine (temperature 0.8, top_p 0.95, top_k 40, min_p
0.05), so that a deployment may change between the two.
- `seed` is folded to 32 bits. Under load rounding in batches can differ, so `deterministic` is not declared.
- `presence_penalty` and `frequency_penalty` count what was generated, `repetition_penalty` the prompt too.
- `logprobs` tells the chosen token only: `top_logprobs` and, of completions, numbers above 0 are refused.
- `echo` repeats text prompts; not with `logprobs`. `chat_template_kwargs` takes flags and short words.
- `tool_choice` `required` or a name is forced by grammar; `auto` is refused.
- Refused: `logit_bias`, `suffix`, `best_of`, `return_token_ids`, `reasoning_effort`,
  `verbosity`, parts that are no text.
Every choice is a sequence of its own. Cached prompt tokens are told of what is stepped by ourselves; the library tells
none of its own: usage shows 0 of them.
"""

import importlib.util

import msgspec

from outpace.engines import child
from outpace.engines.openai_body import PATHS, wants_usage
from outpace.engines.openvino_body import ask_of
from outpace.engines.openvino_config import OpenVinoConfig, OpenVinoSettings
from outpace.engines.openvino_reader import OpenVinoReader
from outpace.engines.parameters import Declared, settings_of
from outpace.engines.protocol import NO_HINTS, Call, Capabilities, Hints, Load, Readiness
from outpace.engines.readers import AnswerReader
from outpace.engines.refusals import translate
from outpace.engines.wire import ENCODE
from outpace.values.deployment import Launch, LaunchOrder, Task
from outpace.values.errors import EngineFailed, InvalidInput, OutpaceError
from outpace.values.requests import EngineBound, endpoint_of
from outpace.values.snapshot import DeploymentEntry

_TEXT = {
    "frequency_penalty",
    "ignore_eos",
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
_CHAT = {
    "chat_template_kwargs",
    "max_completion_tokens",
    "messages",
    "parallel_tool_calls",
    "response_format",
    "tool_choice",
    "tools",
}
PARAMETERS: dict[Task, frozenset[str]] = {
    "chat": frozenset(_TEXT | _CHAT),
    "completions": frozenset({*_TEXT, "prompt", "echo"}),
}
_DECLARED = Declared("openvino", PARAMETERS)
_ORDERED = frozenset({"parallel", "context_tokens", "threads"})
_LIBRARY = "openvino_genai"
_MODULE = "outpace.engines.openvino_child"


class _Stats(msgspec.Struct):
    running: int
    waiting: int
    kv_used_fraction: float


class OpenVino:
    """Adapter of `outpace.engines.openvino_child`."""

    name = "openvino"
    load_path: str | None = "/stats"
    capabilities = Capabilities(
        tasks=frozenset({"chat", "completions"}), parameters=PARAMETERS, standby_module=_MODULE
    )

    def launch(self, order: LaunchOrder) -> Launch:
        settings = settings_of(order.engine_settings, OpenVinoSettings, self.name, _ORDERED)
        if importlib.util.find_spec(_LIBRARY) is None:
            raise InvalidInput(
                "engine", "openvino needs the package openvino-genai: `pip install openvino-genai`"
            )
        if not self.capabilities.tasks & set(order.tasks):
            raise InvalidInput("engine", f"openvino serves chat and completions; {order.model} does neither")
        if order.artifact_path is None:
            raise InvalidInput(
                "model", f"{order.model} has no weights file; OpenVINO needs a GGUF or its own files"
            )
        if settings.speculation == "draft" and not settings.draft_path:
            raise InvalidInput("draft_path", "is missing; speculation with a draft model needs its weights")
        path = child.socket_path(order)
        config = OpenVinoConfig(
            **{name: getattr(settings, name) for name in OpenVinoSettings.__struct_fields__},
            socket_path=path,
            model_path=order.artifact_path,
            artifacts_dir=order.artifacts_dir or "",
            alias=order.deployment,
            model=order.model,
            parallel=order.parallel,
            context_tokens=order.context_tokens,
            threads=order.threads,
            loads_at_once=order.loads_at_once,
        )
        weights = tuple(filter(None, (order.artifact_path, settings.draft_path)))
        return child.launch_module(_MODULE, config, path, order.token, weights)

    def readiness(self, deployment: DeploymentEntry) -> Readiness:
        body = {"model": deployment.engine_model, "prompts": ["ready"], "max_tokens": 1, "temperature": 0}
        return Readiness(path="/health", token_path=PATHS["completions"], token_body=ENCODE(body))

    def call(
        self, request: EngineBound, deployment: DeploymentEntry, request_id: str, hints: Hints = NO_HINTS
    ) -> Call:
        _DECLARED.check(request)
        ask = ask_of(request, deployment, hints)
        body = ENCODE(ask)
        path = PATHS[endpoint_of(request)]
        if ask.stream:
            reader = OpenVinoReader(self.error, wants_usage=wants_usage(request))
            return Call(path=path, body=body, reader=reader)
        return Call(path=path, body=body, reader=AnswerReader(self.error))

    def load(self, body: bytes) -> Load:
        try:
            stats = msgspec.json.decode(body, type=_Stats)
        except msgspec.DecodeError as error:
            raise EngineFailed("OpenVINO's statistics cannot be read.") from error
        return Load(running=stats.running, waiting=stats.waiting, kv_used_fraction=stats.kv_used_fraction)

    def error(self, status: int, body: bytes) -> OutpaceError:
        return translate(status, body)
