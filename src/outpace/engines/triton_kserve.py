"""Triton by the KServe v2 protocol and its generate extension: `tritonserver` behind our front, text in, text out.

For repositories whose backend is vLLM and that are served without the OpenAI front end. Completions of one text only:
KServe knows neither messages nor several choices. Triton's vLLM backend tells the counts of tokens when asked.
Written to the published protocol (KServe v2, generate extension of Triton 2.70); it was not run by us
(docs/reference/compatibility.md).
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from outpace.engines import child
from outpace.engines.folding import FoldingReader
from outpace.engines.front_config import FrontConfig
from outpace.engines.llamacpp_reader import StreamPlan
from outpace.engines.openai_body import wants_usage
from outpace.engines.parameters import Declared, settings_of
from outpace.engines.protocol import NO_HINTS, Call, Capabilities, Hints, Load, Readiness
from outpace.engines.readers import ErrorOf
from outpace.engines.refusals import translate
from outpace.engines.served_reader import ServedReader
from outpace.engines.wire import ENCODE
from outpace.values.clock import SystemClock
from outpace.values.deployment import Launch, LaunchOrder, Needs, Task
from outpace.values.errors import EngineFailed, OutpaceError, UnsupportedParameter
from outpace.values.requests import CompletionRequest, EngineBound
from outpace.values.snapshot import DeploymentEntry

_ORDERED = frozenset({"parallel", "context_tokens", "threads"})
_SAME = (
    "frequency_penalty",
    "ignore_eos",
    "min_p",
    "min_tokens",
    "presence_penalty",
    "repetition_penalty",
    "seed",
    "stop",
    "temperature",
    "top_k",
    "top_p",
)
_PARAMETERS: dict[Task, frozenset[str]] = {"completions": frozenset({*_SAME, "prompt", "max_tokens"})}
_DECLARED = Declared("triton-kserve", _PARAMETERS)
_DEFAULT_TOKENS = 16


class TritonKserveSettings(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """Engine settings of a deployment on `tritonserver`."""

    # Folder in Triton's layout, and the model in it.
    repository: Annotated[str, Meta(min_length=1)]
    # It becomes part of a URL.
    repository_model: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class _Piece(msgspec.Struct):
    """One event of `generate_stream`."""

    text_output: str = ""
    finish_reason: str | None = None
    num_input_tokens: int | None = None
    num_output_tokens: int | None = None
    error: Any = None


_DECODE = msgspec.json.Decoder(_Piece).decode


class TritonKserve:
    """Adapter of `tritonserver`'s HTTP door."""

    name = "triton-kserve"
    load_path: str | None = None
    capabilities = Capabilities(
        tasks=frozenset({"completions"}), parameters=_PARAMETERS, tested_with="its protocol"
    )

    def launch(self, order: LaunchOrder) -> Launch:
        settings = settings_of(order.engine_settings, TritonKserveSettings, self.name, _ORDERED)
        path = child.socket_path(order)
        argv = (
            *("tritonserver", "--model-repository", settings.repository),
            *("--http-address", "127.0.0.1", "--http-port", "{port}"),
            *("--allow-grpc", "false", "--allow-metrics", "false"),
        )
        config = FrontConfig(socket_path=path, argv=argv, missing="start Outpace inside Triton's container")
        launch = child.launch_module("outpace.engines.front_main", config, path, order.token)
        # How many its models use is in its repository; a replica gets one.
        return msgspec.structs.replace(launch, needs=Needs(devices=1))

    def readiness(self, deployment: DeploymentEntry) -> Readiness:
        body = {"text_input": "ready", "parameters": {"max_tokens": 1, "stream": False}}
        return Readiness(
            path="/v2/health/ready",
            token_path=f"{_model_path(deployment)}/generate",
            token_body=ENCODE(body),
            start_deadline_s=1800.0,
        )

    def call(
        self, request: EngineBound, deployment: DeploymentEntry, request_id: str, hints: Hints = NO_HINTS
    ) -> Call:
        _DECLARED.check(request)
        assert isinstance(request, CompletionRequest), "the declared tasks let nothing else through"
        if not isinstance(request.prompt, str):
            raise UnsupportedParameter("prompt", "this model's engine takes one text")
        limit = (_DEFAULT_TOKENS if request.max_tokens is None else request.max_tokens) - hints.sent_tokens
        parameters = {name: value for name in _SAME if (value := getattr(request, name)) is not None}
        parameters |= {"max_tokens": limit, "stream": True, "exclude_input_in_output": True}
        asked = dict.fromkeys(
            ("return_finish_reason", "return_num_input_tokens", "return_num_output_tokens"), True
        )
        body = {"text_input": request.prompt + hints.sent_text, **asked, "parameters": parameters}
        plan = StreamPlan(
            is_chat=False,
            wants_usage=bool(request.stream) and wants_usage(request),
            output_tokens=limit,
            context_tokens=deployment.context_tokens,
        )
        events = KserveReader(self.error, plan, deployment.name, request_id)
        reader = events if request.stream else FoldingReader(events, is_chat=False)
        return Call(path=f"{_model_path(deployment)}/generate_stream", body=ENCODE(body), reader=reader)

    def load(self, body: bytes) -> Load:
        raise EngineFailed("KServe v2 has no load figure.")

    def error(self, status: int, body: bytes) -> OutpaceError:
        return translate(status, body)


class KserveReader(ServedReader):
    """Events of `generate_stream` as those of a completion; the counts come with every event, and add up."""

    def __init__(self, error: ErrorOf, plan: StreamPlan, model: str, request_id: str) -> None:
        super().__init__(error, plan, model)
        self._request_id = request_id
        # KServe tells no time; the answer's is that of the call.
        self._created_s = int(SystemClock().wall_s())
        self._prompt = 0
        self._output = 0

    def finished(self) -> bytes:
        """KServe has no terminal event: the end of the answer is the end, when it told a finish."""
        if self._status == 200 and not self.is_complete and self.finish_reason is not None:
            return self._done()
        return super().finished()

    def _event(self, event: bytes) -> bytes:
        if not event.startswith(b"data: "):
            return b""
        try:
            piece = _DECODE(event[6:])
        except msgspec.DecodeError as error:
            raise EngineFailed("The engine sent an event that is no JSON of the expected form.") from error
        if piece.error is not None:
            raise self._error(500, event[6:])
        return self._parsed_piece(piece)

    def _parsed_piece(self, piece: _Piece) -> bytes:
        finish = piece.finish_reason if piece.finish_reason not in (None, "null", "None") else None
        self._prompt = piece.num_input_tokens or self._prompt
        self._output += piece.num_output_tokens or (1 if piece.num_output_tokens is None else 0)
        usage = {
            "prompt_tokens": self._prompt,
            "completion_tokens": self._output,
            "total_tokens": self._prompt + self._output,
        }
        shown = {"index": 0, "text": piece.text_output, "logprobs": None, "finish_reason": finish}
        event = {"id": self._request_id, "created": self._created_s, "choices": [shown], "usage": usage}
        return super()._event(b"data: " + ENCODE(event) + b"\n\n")


def _model_path(deployment: DeploymentEntry) -> str:
    return f"/v2/models/{deployment.engine_settings['repository_model']}"
