"""The echo engine: a fast fake that ships, for trying Outpace, for load tests and for fault tests.

It says the words of the last user message again; see `echo_words` for its rules and switches. Tokens are words.
Honoured: lengths, `stop`, `n`, `ignore_eos`, log-probabilities (made up), embeddings of any dimension, both
encodings. `seed`, `temperature` and `top_p` are accepted: the answer is the same for all their values, as it is at
temperature 0. Everything else is refused by name.
"""

import msgspec

from outpace.engines import child
from outpace.engines.echo_server import EchoConfig
from outpace.engines.echo_words import Switches, num_words
from outpace.engines.openai_body import PATHS, rebuilt, wants_usage
from outpace.engines.parameters import Declared, settings_of
from outpace.engines.protocol import NO_HINTS, Call, Capabilities, Hints, Load, Readiness
from outpace.engines.readers import AnswerReader, PassingReader
from outpace.engines.refusals import translate
from outpace.values.deployment import Launch, LaunchOrder, Task
from outpace.values.errors import EngineFailed, OutpaceError
from outpace.values.requests import EngineBound, endpoint_of
from outpace.values.snapshot import DeploymentEntry

_TEXT = {"max_tokens", "n", "stop", "seed", "temperature", "top_p", "logprobs", "ignore_eos"}
PARAMETERS: dict[Task, frozenset[str]] = {
    "chat": frozenset({*_TEXT, "messages", "max_completion_tokens", "top_logprobs"}),
    "completions": frozenset({*_TEXT, "prompt"}),
    "embeddings": frozenset({"input", "dimensions", "encoding_format"}),
}
_MODULE = "outpace.engines.echo_server"
_DECLARED = Declared("echo", PARAMETERS)
# Settings of a deployment that reach an engine through the order.
_ORDERED = frozenset({"threads"})


class _Stats(msgspec.Struct):
    running: int
    waiting: int


class Echo:
    """Adapter of `outpace.engines.echo_server`."""

    name = "echo"
    load_path: str | None = "/stats"
    capabilities = Capabilities(
        tasks=frozenset({"chat", "completions", "embeddings"}),
        parameters=PARAMETERS,
        deterministic=True,
        standby_module=_MODULE,
    )

    def launch(self, order: LaunchOrder) -> Launch:
        switches = settings_of(order.engine_settings, Switches, self.name, _ORDERED)
        if not switches.context_tokens:
            switches = msgspec.structs.replace(switches, context_tokens=order.context_tokens)
        path = child.socket_path(order)
        config = EchoConfig(address=f"unix:{path}", model=order.deployment, switches=switches)
        return child.launch_module(_MODULE, config, path, order.token)

    def readiness(self, deployment: DeploymentEntry) -> Readiness:
        body = {"model": deployment.engine_model, "prompt": "ready", "max_tokens": 1}
        return Readiness(
            path="/health",
            token_path=PATHS["completions"],
            token_body=msgspec.json.encode(body),
            start_deadline_s=30.0,
        )

    def call(
        self, request: EngineBound, deployment: DeploymentEntry, request_id: str, hints: Hints = NO_HINTS
    ) -> Call:
        _DECLARED.check(request)
        endpoint = endpoint_of(request)
        is_same = deployment.engine_model == deployment.name
        model = None if is_same else msgspec.json.encode(deployment.name)
        body = rebuilt(request, deployment.engine_model)
        if getattr(request, "stream", None):
            reader = PassingReader(
                self.error, wants_usage=wants_usage(request), model=model, prompt_tokens=num_words(body)
            )
            return Call(path=PATHS[endpoint], body=body, reader=reader)
        return Call(path=PATHS[endpoint], body=body, reader=AnswerReader(self.error, model))

    def load(self, body: bytes) -> Load:
        try:
            stats = msgspec.json.decode(body, type=_Stats)
        except msgspec.DecodeError as error:
            raise EngineFailed("The echo engine's statistics cannot be read.") from error
        return Load(running=stats.running, waiting=stats.waiting)

    def error(self, status: int, body: bytes) -> OutpaceError:
        return translate(status, body)
