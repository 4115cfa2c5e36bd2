"""The contract of every engine adapter, against real processes: what the gateway may rely on.

Every engine of the registry is held to it; one alone: `pytest tests/contract/test_engine_contract.py -k NAME`.
"""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.contract.conftest import CONTEXT_TOKENS, artifact_for, engines, entry, order
from tests.contract.replicas import (
    RunningReplica,
    running_replica,
    start_process,
    stop,
    wait_ready,
    wait_until,
)

from outpace.engines.protocol import Hints
from outpace.engines.registry import ENGINES, engine
from outpace.values.errors import InvalidInput, OutpaceError, UnsupportedParameter
from outpace.values.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    JsonSchema,
    JsonSchemaFormat,
    StreamOptions,
    UserMessage,
)

LAUNCHED = engines(name for name in ENGINES if engine(name).capabilities.is_launched)
CITY_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.fixture(params=engines(ENGINES))
def replica(
    request: pytest.FixtureRequest, start: Callable[[str, Path | None], RunningReplica]
) -> RunningReplica:
    return start(request.param, artifact_for(request.param, request))


def chat(text: str = "Say these few words again", **fields: Any) -> ChatRequest:
    defaults: dict[str, Any] = {"temperature": 0, "max_tokens": 6}
    return ChatRequest(model="m", messages=[UserMessage(content=text)], **{**defaults, **fields})


def completion(prompt: Any = "The capital of France is", **fields: Any) -> CompletionRequest:
    return CompletionRequest(model="m", prompt=prompt, **{"temperature": 0, "max_tokens": 4, **fields})


def honours(replica: RunningReplica, field: str) -> bool:
    return field in replica.engine.capabilities.parameters["chat"]


def content(exchange_events: list[Any]) -> str:
    return "".join(
        choice["delta"].get("content") or "" for event in exchange_events for choice in event["choices"]
    )


def test_whole_answer_has_every_required_field(replica: RunningReplica) -> None:
    exchange = replica.ask(chat())
    answer = exchange.answer
    assert answer["object"] == "chat.completion"
    assert answer["model"] == replica.deployment.name
    assert isinstance(answer["created"], int)
    (choice,) = answer["choices"]
    assert choice["index"] == 0
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    assert choice["message"]["refusal"] is None
    assert choice["logprobs"] is None
    assert choice["finish_reason"] == exchange.reader.finish_reason == "length"
    assert answer["usage"]["completion_tokens"] == exchange.reader.usage.completion_tokens == 6
    assert "timings" not in answer


def test_stream_starts_with_the_role_and_joins_to_the_whole_answer(replica: RunningReplica) -> None:
    whole = replica.ask(chat()).answer["choices"][0]["message"]["content"]
    streamed = replica.ask(chat(stream=True))
    assert streamed.events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert content(streamed.events) == whole
    finishes = [event["choices"][0]["finish_reason"] for event in streamed.events]
    assert [finish for finish in finishes if finish] == ["length"]
    assert streamed.num_terminal_events == 1
    assert streamed.sent.endswith(b"data: [DONE]\n\n")
    assert streamed.reader.is_complete


def test_stream_has_one_id_one_created_one_model_and_nothing_of_the_engines_own(
    replica: RunningReplica,
) -> None:
    events = replica.ask(chat(stream=True, max_tokens=12)).events
    assert len({(event["id"], event["created"], event["model"]) for event in events}) == 1
    assert events[0]["model"] == replica.deployment.name
    known = {"id", "object", "created", "model", "choices", "system_fingerprint"}
    assert all(set(event) <= known for event in events)


def test_stream_usage_comes_only_when_asked_for_and_once(replica: RunningReplica) -> None:
    exchange = replica.ask(chat(stream=True, stream_options=StreamOptions(include_usage=True)))
    *ordinary, last = exchange.events
    assert all(event["usage"] is None and event["choices"] for event in ordinary)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 6 == exchange.reader.usage.completion_tokens
    assert last["usage"]["total_tokens"] == exchange.reader.usage.total_tokens
    silent = replica.ask(chat(stream=True))
    assert all("usage" not in event for event in silent.events)
    assert silent.reader.usage.completion_tokens == 6


def test_usage_counts_all_choices_and_the_prompt_once(replica: RunningReplica) -> None:
    one = replica.ask(chat(max_tokens=3)).reader.usage
    two = replica.ask(chat(max_tokens=3, n=2))
    streamed = replica.ask(chat(max_tokens=3, n=2, stream=True)).reader.usage
    assert [choice["index"] for choice in two.answer["choices"]] == [0, 1]
    assert two.reader.usage.completion_tokens == streamed.completion_tokens == 6
    assert two.reader.usage.prompt_tokens == streamed.prompt_tokens == one.prompt_tokens
    assert two.answer["usage"]["completion_tokens"] == 6


def test_prompt_lists_answer_in_order_and_add_up(replica: RunningReplica) -> None:
    prompts = ["The capital of France is", "One two"]
    single = [replica.ask(completion(prompt, max_tokens=2)) for prompt in prompts]
    both = replica.ask(completion(prompts, max_tokens=2, n=2))
    choices = both.answer["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    assert choices[0]["text"] == single[0].answer["choices"][0]["text"]
    assert choices[2]["text"] == single[1].answer["choices"][0]["text"]
    assert both.reader.usage.completion_tokens == 8
    assert both.reader.usage.prompt_tokens == sum(each.reader.usage.prompt_tokens for each in single)
    assert both.answer["usage"]["completion_tokens"] == 8


def test_completions_have_sixteen_tokens_by_default_and_take_token_ids(replica: RunningReplica) -> None:
    usage = replica.ask(
        completion([504, 3575, 282], max_tokens=None, ignore_eos=_if(replica, "ignore_eos"))
    ).reader.usage
    assert usage.completion_tokens == 16
    assert usage.prompt_tokens == 3


def test_completion_logprobs_have_the_completions_shape(replica: RunningReplica) -> None:
    num_top = 2 if honours(replica, "top_logprobs") else 0
    exchange = replica.ask(completion(max_tokens=3, logprobs=num_top))
    (choice,) = exchange.answer["choices"]
    logprobs = choice["logprobs"]
    assert "".join(logprobs["tokens"]) == choice["text"]
    assert len(logprobs["token_logprobs"]) == 3
    starts = [len("".join(logprobs["tokens"][:index])) for index in range(3)]
    assert logprobs["text_offset"] == starts
    assert all(value <= 0 for value in logprobs["token_logprobs"])
    if not num_top:
        assert logprobs["top_logprobs"] is None
        return
    assert [len(top) for top in logprobs["top_logprobs"]] == [2, 2, 2]


def test_chat_logprobs_join_to_the_text(replica: RunningReplica) -> None:
    num_top = 2 if honours(replica, "top_logprobs") else 0
    fields: dict[str, Any] = {"top_logprobs": num_top} if num_top else {}
    (choice,) = replica.ask(chat(max_tokens=3, logprobs=True, **fields)).answer["choices"]
    entries = choice["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == choice["message"]["content"]
    assert all(set(entry) == {"token", "logprob", "bytes", "top_logprobs"} for entry in entries)
    assert all(len(entry["top_logprobs"]) == num_top for entry in entries)
    (plain,) = replica.ask(chat(max_tokens=2, logprobs=True)).answer["choices"]
    assert [entry["top_logprobs"] for entry in plain["logprobs"]["content"]] == [[], []]


def test_stop_ends_before_the_text(replica: RunningReplica) -> None:
    whole = replica.ask(completion(max_tokens=8)).answer["choices"][0]["text"]
    word = whole.split()[-1]
    stopped = replica.ask(completion(max_tokens=8, stop=word))
    assert stopped.answer["choices"][0]["text"] == whole[: whole.index(word)]
    assert stopped.reader.finish_reason == "stop"


def test_same_seed_gives_the_same_text(replica: RunningReplica) -> None:
    texts = {
        replica.ask(completion(temperature=1, seed=seed)).answer["choices"][0]["text"]
        for seed in (-7, -7, -7)
    }
    assert len(texts) == 1


@pytest.mark.parametrize("make", [chat, completion])
def test_an_answer_goes_on_behind_its_text_where_that_is_declared(
    replica: RunningReplica, make: Callable[..., Any]
) -> None:
    if not replica.engine.capabilities.continues:
        pytest.skip("does not declare it")
    request = make("Tell me about the sea.", max_tokens=24, stream=True)
    streamed = replica.ask(request).events
    pieces = [said for event in streamed for each in event["choices"] if (said := said_in(each))]
    sent, rest = "".join(pieces[:12]), "".join(pieces[12:])
    more = replica.ask(request, Hints(sent_text=sent, sent_tokens=12))
    text = "".join(said_in(each) for event in more.events for each in event["choices"])
    # Rounding may choose another word later on, but what comes next is no new beginning.
    assert text[:12] == rest[:12]
    assert more.reader.usage.completion_tokens == 12


def said_in(choice: dict[str, Any]) -> str:
    """The text of a streamed choice."""
    return str((choice["delta"].get("content") if "delta" in choice else choice["text"]) or "")


@pytest.mark.parametrize("is_stream", [False, True])
def test_prompt_and_output_over_the_context_are_refused_at_the_exact_token(
    replica: RunningReplica, is_stream: bool
) -> None:
    full = [504] * (CONTEXT_TOKENS - 1)
    with pytest.raises(OutpaceError) as refusal:
        replica.ask(completion(full, max_tokens=2, stream=is_stream))
    assert refusal.value.code == "context_length_exceeded"
    assert refusal.value.status == 400
    assert str(CONTEXT_TOKENS) in refusal.value.message
    assert str(CONTEXT_TOKENS + 1) in refusal.value.message
    assert replica.ask(completion(full, max_tokens=1, stream=is_stream)).reader.is_complete


def test_far_too_long_is_refused_and_without_a_limit_too(replica: RunningReplica) -> None:
    with pytest.raises(OutpaceError) as refusal:
        replica.ask(chat("word " * (CONTEXT_TOKENS + 50), max_tokens=None))
    assert refusal.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    "field", ["prediction", "audio", "web_search_options", "min_tokens", "reasoning_effort"]
)
def test_what_is_not_declared_is_refused_by_name(replica: RunningReplica, field: str) -> None:
    if honours(replica, field):
        pytest.skip("declared by this engine")
    value: Any = {"min_tokens": 3, "reasoning_effort": "low"}.get(field, {"type": "x"})
    with pytest.raises(UnsupportedParameter) as refusal:
        replica.engine.call(chat(**{field: value}), replica.deployment, "r")
    assert refusal.value.param == field


def test_leaving_frees_the_slot_within_a_second(replica: RunningReplica) -> None:
    slow = "echo:token_interval_ms=200 echo:tokens=400 word"
    fields: dict[str, Any] = {"ignore_eos": True} if honours(replica, "ignore_eos") else {}
    request = chat(slow, stream=True, max_tokens=400, **fields)
    connection, response, reader = replica.send(request)
    while not reader.usage.completion_tokens:
        reader.feed(response.read1(65_536))
    assert reader.usage.prompt_tokens > 0
    assert replica.running() == 1
    response.close()
    connection.close()
    wait_until(lambda: replica.running() == 0, deadline_s=1.0)


def test_leaving_a_request_that_does_not_stream_frees_the_slot_too(replica: RunningReplica) -> None:
    fields: dict[str, Any] = {"ignore_eos": True} if honours(replica, "ignore_eos") else {}
    request = chat("echo:delay_ms=60000 echo:tokens=9 word", max_tokens=None, **fields)
    connection = replica.post_and_leave_open(replica.engine.call(request, replica.deployment, "r"))
    wait_until(lambda: replica.running() == 1)
    connection.close()
    wait_until(lambda: replica.running() == 0, deadline_s=1.0)


def test_json_schema_is_followed_where_it_is_declared(replica: RunningReplica) -> None:
    if not honours(replica, "response_format") or replica.engine.name == "external":
        pytest.skip("needs a model")
    wanted = JsonSchemaFormat(json_schema=JsonSchema(name="city", schema=CITY_SCHEMA))
    exchange = replica.ask(chat("Name a city as JSON", max_tokens=60, response_format=wanted))
    assert set(json.loads(exchange.answer["choices"][0]["message"]["content"])) == {"city"}


def test_embeddings_keep_order_and_count(replica: RunningReplica) -> None:
    if "embeddings" not in replica.engine.capabilities.tasks:
        with pytest.raises(UnsupportedParameter):
            replica.engine.call(EmbeddingRequest(model="m", input="x"), replica.deployment, "r")
        return
    if "embeddings" not in replica.deployment.tasks:
        pytest.skip("this replica makes texts only")
    exchange = replica.ask(EmbeddingRequest(model="m", input=["one two", "three"]))
    assert [row["index"] for row in exchange.answer["data"]] == [0, 1]
    assert exchange.answer["data"][0]["embedding"] != exchange.answer["data"][1]["embedding"]
    assert exchange.answer["model"] == replica.deployment.name
    assert exchange.reader.usage.prompt_tokens == exchange.answer["usage"]["prompt_tokens"] > 0
    assert exchange.reader.is_complete


def test_the_readiness_probe_produces_a_token(replica: RunningReplica) -> None:
    readiness = replica.engine.readiness(replica.deployment)
    assert replica.get(readiness.path)[0] == 200
    status, body = replica.post(readiness.token_path, readiness.token_body)
    assert status == 200
    assert json.loads(body)["usage"]["completion_tokens"] == 1


@pytest.mark.parametrize("name", LAUNCHED)
def test_a_caller_without_the_token_gets_nothing(
    name: str, start: Callable[[str, Path | None], RunningReplica], request: pytest.FixtureRequest
) -> None:
    replica = start(name, artifact_for(name, request))
    stranger = RunningReplica(replica.engine, replica.deployment, replica.address, "wrong", None)
    with pytest.raises(OutpaceError, match="credentials"):
        stranger.ask(chat())
    path = Path(replica.address.removeprefix("unix:"))
    assert path.stat().st_mode & 0o077 == 0
    argv = Path(f"/proc/{replica.process.pid}/cmdline").read_bytes() if replica.process else b""
    assert replica.token.encode() not in argv


@pytest.mark.parametrize("name", LAUNCHED)
def test_sigterm_ends_it_twice_is_fine_and_the_place_is_free_again(
    name: str, sockets: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    adapter = engine(name)
    place = sockets / "again"
    place.mkdir(mode=0o700, exist_ok=True)
    launch = adapter.launch(order(name, artifact_for(name, request), place))
    deployment = entry(f"public/{name}", name, f"public/{name}")
    process = start_process(launch, tmp_path / "log")
    wait_ready(RunningReplica(adapter, deployment, launch.address, launch.token, process), tmp_path / "log")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    assert stop(process) in (0, -signal.SIGTERM)
    # A killed replica leaves its socket behind; the next one takes the place.
    Path(launch.address.removeprefix("unix:")).unlink(missing_ok=True)
    killed = start_process(launch, tmp_path / "log")
    wait_ready(RunningReplica(adapter, deployment, launch.address, launch.token, killed), tmp_path / "log")
    # With what it started itself, as the supervisor does: vLLM's own processes outlive it.
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    with running_replica(adapter, launch, deployment, tmp_path / "log") as replica:
        assert replica.ask(chat(max_tokens=1)).reader.is_complete


@pytest.mark.parametrize("name", LAUNCHED)
def test_an_unknown_setting_is_refused_by_name(name: str, sockets: Path) -> None:
    with pytest.raises(InvalidInput, match="no_such_setting"):
        engine(name).launch(order(name, Path("x.gguf"), sockets, no_such_setting=1))


def _if(replica: RunningReplica, field: str) -> bool | None:
    return True if honours(replica, field) else None
