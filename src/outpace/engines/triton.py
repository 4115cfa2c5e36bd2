"""Triton Inference Server: its OpenAI front end started behind our front, over a model repository of the user's.

The repository (a folder in Triton's layout, with a vLLM or TensorRT-LLM backend) is the setting `repository`; the
model in it that serves is `repository_model`. Its KServe v2 door is the engine `triton-kserve`. Written to the
published front end of Triton 2.70 (26.07); it was not run by us (docs/reference/compatibility.md).
- Running usage is not told: what is given up half-way is billed by the deltas that were sent.
- Refused: engine extras (`top_k`, …), `response_format`, `echo`, `suffix`, `best_of`, log-probabilities, tools.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from outpace.engines import child
from outpace.engines.front_config import FrontConfig
from outpace.engines.parameters import settings_of
from outpace.engines.protocol import Capabilities, Load
from outpace.engines.served import ServedEngine, metric
from outpace.engines.served_body import Quirks
from outpace.values.deployment import Launch, LaunchOrder, Needs, Task
from outpace.values.errors import EngineFailed, InvalidInput

_ORDERED = frozenset({"parallel", "context_tokens", "threads"})
_TEXT = frozenset(
    {"frequency_penalty", "max_tokens", "n", "presence_penalty", "seed", "stop", "temperature", "top_p"}
)
_PARAMETERS: dict[Task, frozenset[str]] = {
    "chat": _TEXT | {"max_completion_tokens", "messages"},
    "completions": _TEXT | {"prompt"},
}


class TritonSettings(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """Engine settings of a Triton deployment."""

    # Folder in Triton's layout, and the model in it.
    repository: Annotated[str, Meta(min_length=1)]
    repository_model: Annotated[str, Meta(min_length=1)]
    # Tokenizer folder for the chat template.
    tokenizer: Annotated[str, Meta(min_length=1)]
    # Triton's OpenAI front end, where its container has it.
    program: str = "/opt/tritonserver/python/openai/openai_frontend/main.py"


class Triton(ServedEngine):
    """Adapter of Triton's OpenAI front end."""

    name = "triton"
    parameters = _PARAMETERS
    readiness_path = "/health/ready"
    capabilities = Capabilities(
        tasks=frozenset({"chat", "completions"}), parameters=_PARAMETERS, tested_with="its protocol"
    )
    quirks = Quirks(has_running_usage=False)

    def launch(self, order: LaunchOrder) -> Launch:
        settings = settings_of(order.engine_settings, TritonSettings, self.name, _ORDERED)
        if "/" in settings.repository_model or settings.repository_model.startswith("."):
            raise InvalidInput("engine_settings.repository_model", "is a model's name, not a path")
        path = child.socket_path(order)
        argv = (
            *("python3", settings.program),
            *("--model-repository", settings.repository),
            *("--tokenizer", settings.tokenizer),
            *("--host", "127.0.0.1", "--openai-port", "{port}"),
        )
        config = FrontConfig(
            socket_path=path, argv=argv, missing="start Outpace inside Triton's container (…-vllm-python-py3)"
        )
        launch = child.launch_module("outpace.engines.front_main", config, path, order.token)
        # How many its models use is in its repository; a replica gets one.
        return msgspec.structs.replace(launch, needs=Needs(devices=1))

    def load(self, body: bytes) -> Load:
        """Requests that Triton holds; it does not tell those in a batch from those that wait."""
        pending = metric("nv_inference_pending_request_count", body)
        if pending is None:
            raise EngineFailed("Triton's metrics do not tell its load.")
        return Load(running=int(pending), waiting=0)
