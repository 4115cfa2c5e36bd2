"""Any OpenAI-compatible API elsewhere, reached by URL.

The replica's address is the deployment's `base_url` as given (…/v1); paths are appended to it, as SDKs do.
The body is rebuilt from the parsed request under the upstream's model name; the answer shows the public name.
Usage is always asked for. Until it comes, and with an upstream that ignores that, deltas are counted and the prompt
is taken as a token per four bytes of the body; the reader then says `is_estimated`.
Errors come without the upstream's address, paths and keys.

Honoured: what the OpenAI API defines, as far as the upstream honours it; an upstream that refuses a field is quoted.
Refused here: engine extras (`top_k`, …) that an OpenAI API does not know, and what is billed in units that are not
tokens (`audio`, `web_search_options`).
"""

import msgspec

from outpace.engines.openai_body import PATHS, rebuilt, wants_usage
from outpace.engines.parameters import Declared
from outpace.engines.protocol import NO_HINTS, Call, Capabilities, Hints, Load, Readiness
from outpace.engines.readers import AnswerReader, PassingReader
from outpace.engines.refusals import translate
from outpace.values.deployment import Launch, LaunchOrder, Task
from outpace.values.errors import EngineFailed, InvalidInput, OutpaceError
from outpace.values.requests import EngineBound, endpoint_of
from outpace.values.snapshot import DeploymentEntry

_TEXT = {
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "max_tokens",
    "n",
    "presence_penalty",
    "seed",
    "stop",
    "temperature",
    "top_p",
}
_CHAT = {
    "max_completion_tokens",
    "messages",
    "parallel_tool_calls",
    "prediction",
    "reasoning_effort",
    "response_format",
    "tool_choice",
    "tools",
    "top_logprobs",
    "verbosity",
}
PARAMETERS: dict[Task, frozenset[str]] = {
    "chat": frozenset(_TEXT | _CHAT),
    "completions": frozenset({*_TEXT, "prompt", "best_of", "echo", "suffix"}),
    "embeddings": frozenset({"input", "dimensions", "encoding_format"}),
}
# English text, by the usual rule of thumb.
_BYTES_PER_TOKEN = 4
_DECLARED = Declared("external", PARAMETERS)


class ExternalApi:
    """Adapter of an OpenAI-compatible API that somebody else runs."""

    name = "external"
    load_path: str | None = None
    capabilities = Capabilities(
        tasks=frozenset({"chat", "completions", "embeddings"}), parameters=PARAMETERS, is_launched=False
    )

    def launch(self, order: LaunchOrder) -> Launch:
        raise InvalidInput("engine", "external APIs are not started by Outpace; give `external.base_url`")

    def readiness(self, deployment: DeploymentEntry) -> Readiness:
        is_embedding = deployment.tasks == ("embeddings",)
        body: dict[str, object] = {"model": deployment.engine_model}
        if is_embedding:
            body["input"] = "ready"
        else:
            body |= {"messages": [{"role": "user", "content": "ready"}], "max_tokens": 1}
        path = PATHS["embeddings" if is_embedding else "chat"].removeprefix("/v1")
        return Readiness(path="/models", token_path=path, token_body=msgspec.json.encode(body))

    def call(
        self, request: EngineBound, deployment: DeploymentEntry, request_id: str, hints: Hints = NO_HINTS
    ) -> Call:
        _DECLARED.check(request)
        path = PATHS[endpoint_of(request)].removeprefix("/v1")
        model = msgspec.json.encode(deployment.name)
        body = rebuilt(request, deployment.engine_model)
        if getattr(request, "stream", None):
            reader = PassingReader(
                self.error,
                wants_usage=wants_usage(request),
                model=model,
                prompt_tokens=len(body) // _BYTES_PER_TOKEN,
            )
            return Call(path=path, body=body, reader=reader)
        return Call(path=path, body=body, reader=AnswerReader(self.error, model))

    def load(self, body: bytes) -> Load:
        raise EngineFailed("An external API has no load figure.")

    def error(self, status: int, body: bytes) -> OutpaceError:
        return translate(status, body)
