"""Adapters of OpenAI-speaking servers against what those servers send, recorded or by their published protocol."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from outpace.engines.protocol import Hints
from outpace.engines.registry import engine
from outpace.values.deployment import LaunchOrder
from outpace.values.errors import ContextTooLong, EngineFailed, InvalidInput, OutpaceError
from outpace.values.requests import (
    ChatRequest,
    CompletionRequest,
    FunctionChoice,
    FunctionSpec,
    FunctionTool,
    NamedFunction,
    StreamOptions,
    UserMessage,
)
from outpace.values.snapshot import DeploymentEntry

_WIRES = Path(__file__).parent / "wires"
_CHATS = {
    "vllm": ("vllm-0.32.0-chat.sse", "Hello! How can I assist", "length", (32, 6, 0)),
    "sglang": ("sglang-0.5.23-chat.sse", "Hello", "stop", (32, 2, 20)),
    "tensorrt-llm": ("tensorrt-llm-1.2-chat.sse", "Hello", "stop", (32, 2, 0)),
    "triton": ("triton-26.07-chat.sse", "Hello", "stop", (32, 2, 0)),
}
_GPU = (*_CHATS, "triton-kserve")
_SETTINGS: dict[str, dict[str, str | int | float | bool]] = {
    "triton": {"repository": "/models", "repository_model": "m", "tokenizer": "/tokenizer"},
    "triton-kserve": {"repository": "/models", "repository_model": "m"},
}


def deployment(name: str, **settings: str | int | float | bool) -> DeploymentEntry:
    return DeploymentEntry(
        name="public/name",
        model="m",
        engine_model="m",
        engine=name,
        state="ready",
        created=1,
        owned_by="o",
        tasks=("chat", "completions"),
        context_tokens=512,
        control_texts=("<|im_end|>",),
        engine_settings={**_SETTINGS.get(name, {}), **settings},
    )


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest(model="public/name", messages=[UserMessage(content="Hi there")], **fields)


def order(name: str, **settings: str | int | float | bool) -> LaunchOrder:
    return LaunchOrder(
        replica_id="r-1",
        deployment="public/name",
        model="m",
        artifact_path="/weights",
        tasks=("chat", "completions"),
        context_tokens=512,
        parallel=8,
        threads=2,
        socket_dir="/run/sockets",
        token="secret-token",
        engine_settings={**_SETTINGS.get(name, {}), **settings},
    )


def heard(name: str, request: ChatRequest | CompletionRequest, wire: bytes, step: int) -> tuple[bytes, Any]:
    """What the client gets and the reader, the wire arriving in pieces of `step` bytes."""
    reader = engine(name).call(request, deployment(name), "req-1").reader
    reader.started(200, {})
    pieces = [wire[start : start + step] for start in range(0, len(wire), step)]
    return b"".join([*map(reader.feed, pieces), reader.finished()]), reader


@pytest.mark.parametrize("step", [7, 100_000])
@pytest.mark.parametrize("name", _CHATS)
def test_a_stream_follows_the_contract(name: str, step: int) -> None:
    file, text, finish, usage = _CHATS[name]
    request = chat(stream=True, stream_options=StreamOptions(include_usage=True))
    sent, reader = heard(name, request, (_WIRES / file).read_bytes(), step)
    *events, done = [block.removeprefix("data: ") for block in sent.decode().split("\n\n")[:-1]]
    parsed = [json.loads(event) for event in events]
    assert done == "[DONE]"
    assert parsed[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    deltas = [choice["delta"] for event in parsed for choice in event["choices"]]
    assert "".join(delta.get("content", "") for delta in deltas) == text
    known = {"id", "object", "created", "model", "choices", "usage"}
    assert all(set(event) == known and event["model"] == "public/name" for event in parsed)
    assert [event["usage"] for event in parsed[:-1]] == [None] * (len(parsed) - 1)
    counted = (reader.usage.prompt_tokens, reader.usage.completion_tokens, reader.usage.cached_tokens)
    assert counted == usage
    assert parsed[-1]["usage"]["completion_tokens"] == usage[1]
    assert reader.finish_reason == finish
    assert reader.is_complete


@pytest.mark.parametrize("name", _CHATS)
def test_an_answer_that_does_not_stream_is_the_stream_folded(name: str) -> None:
    file, text, finish, usage = _CHATS[name]
    sent, _ = heard(name, chat(), (_WIRES / file).read_bytes(), 64)
    answer = json.loads(sent)
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": text, "refusal": None}
    assert choice["finish_reason"] == finish
    assert answer["usage"]["completion_tokens"] == usage[1]


def test_completions_of_several_prompts_add_up_and_offsets_go_on() -> None:
    request = CompletionRequest(
        model="m", prompt=["The capital of France is", "One two"], n=2, max_tokens=2, logprobs=2
    )
    sent, reader = heard("vllm", request, (_WIRES / "vllm-0.32.0-completions.sse").read_bytes(), 50)
    choices = json.loads(sent)["choices"]
    assert [choice["text"] for choice in choices] == [" Paris.", " Paris.", "-tailed", "-tailed"]
    assert choices[0]["logprobs"]["text_offset"] == [0, 6]
    assert (reader.usage.prompt_tokens, reader.usage.completion_tokens) == (7, 8)


def test_a_stream_that_is_given_up_is_billed_by_the_engines_own_count() -> None:
    wire = (_WIRES / "vllm-0.32.0-completions.sse").read_bytes()
    reader = (
        engine("vllm")
        .call(CompletionRequest(model="m", prompt=["a", "b"], n=2, stream=True), deployment("vllm"), "r")
        .reader
    )
    reader.started(200, {})
    reader.feed(b"\n\n".join(wire.split(b"\n\n")[:5]) + b"\n\n")
    assert (reader.usage.prompt_tokens, reader.usage.completion_tokens) == (7, 5)
    with pytest.raises(EngineFailed, match="broke off"):
        reader.finished()


def test_a_prompt_without_room_for_its_answer_is_refused_before_anything_is_sent() -> None:
    wire = (_WIRES / "vllm-0.32.0-chat.sse").read_bytes()
    with pytest.raises(ContextTooLong, match="513"):
        heard("vllm", chat(max_tokens=481, stream=True), wire, 64)
    assert heard("vllm", chat(max_tokens=480, stream=True), wire, 64)[1].is_complete


def test_kserve_answers_as_a_completion_with_exact_counts() -> None:
    request = CompletionRequest(model="m", prompt="Hi", max_tokens=5)
    sent, reader = heard("triton-kserve", request, (_WIRES / "triton-26.07-generate.sse").read_bytes(), 40)
    answer = json.loads(sent)
    assert answer["choices"][0]["text"] == "Hello"
    assert (reader.usage.prompt_tokens, reader.usage.completion_tokens) == (32, 2)
    call = engine("triton-kserve").call(request, deployment("triton-kserve"), "r")
    assert call.path == "/v2/models/m/generate_stream"
    assert json.loads(call.body)["parameters"]["max_tokens"] == 5


def test_control_tokens_in_messages_are_defused_and_our_own_request_id_is_sent() -> None:
    request = ChatRequest(model="m", messages=[UserMessage(content="a <|im_end|> b")])
    body = json.loads(
        engine("vllm").call(request, deployment("vllm"), "req-9", Hints(cache_salt="tenant")).body
    )
    assert "<|im_end|>" not in body["messages"][0]["content"]
    assert (body["request_id"], body["cache_salt"]) == ("req-9", "tenant")
    assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


def test_an_answer_goes_on_where_another_replica_stopped() -> None:
    hints = Hints(sent_text="one two", sent_tokens=2)
    body = json.loads(engine("vllm").call(chat(max_tokens=10), deployment("vllm"), "r", hints).body)
    assert body["messages"][-1] == {"role": "assistant", "content": "one two"}
    assert body["continue_final_message"] is True
    assert body["max_tokens"] == 8


def test_several_greedy_choices_are_asked_for_as_the_most_likely_token() -> None:
    body = json.loads(engine("vllm").call(chat(n=2, temperature=0), deployment("vllm"), "r").body)
    assert (body["temperature"], body["top_k"]) == (1.0, 1)


def test_a_forced_tool_is_forced_by_schema_and_comes_out_as_a_call() -> None:
    tool = FunctionTool(function=FunctionSpec(name="city", parameters={"type": "object"}))
    named = FunctionChoice(function=NamedFunction(name="city"))
    request = chat(tools=[tool], tool_choice=named)
    body = json.loads(engine("vllm").call(request, deployment("vllm"), "r").body)
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    wire = (_WIRES / "sglang-0.5.23-chat.sse").read_bytes().replace(b'"Hel"', b'"{}"')
    sent, _ = heard("sglang", request, wire.replace(b'"lo"', b'""'), 64)
    (choice,) = json.loads(sent)["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "city", "arguments": "{}"}


@pytest.mark.parametrize("name", _GPU)
def test_the_token_is_in_no_argument(name: str) -> None:
    launch = engine(name).launch(order(name))
    assert not any("secret-token" in word for word in launch.argv)
    assert launch.address == "unix:/run/sockets/r-1.sock"


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        (
            "vllm",
            {"tensor_parallel": 4, "pipeline_parallel": 2, "kv_cache_dtype": "fp8", "sleep_mode": True},
            ["--tensor-parallel-size 4", "--pipeline-parallel-size 2", "--kv-cache-dtype fp8"],
        ),
        ("vllm", {"speculation": "ngram"}, ['\\"method\\":\\"ngram\\"']),
        (
            "sglang",
            {"tensor_parallel": 4, "speculation": "ngram", "kv_cache_dtype": "fp8_e4m3"},
            ["--tp-size 4", "--speculative-algorithm NGRAM", "--kv-cache-dtype fp8_e4m3"],
        ),
        (
            "tensorrt-llm",
            {"tensor_parallel": 8, "batch_tokens": 4096},
            ["--tp_size 8", "--max_num_tokens 4096"],
        ),
        ("triton", {}, ["--model-repository /models", "--tokenizer /tokenizer"]),
        ("triton-kserve", {}, ["--allow-grpc false"]),
    ],
)
def test_settings_become_flags(name: str, settings: dict[str, Any], words: list[str]) -> None:
    config = engine(name).launch(order(name, **settings)).argv[-1]
    flat = config.replace('","', " ")
    assert all(word in flat for word in words), flat


@pytest.mark.parametrize(("tensor_parallel", "threads"), [(1, "8"), (2, "4"), (16, "1")])
def test_vllms_ranks_share_the_threads(tensor_parallel: int, threads: str) -> None:
    told = msgspec.structs.replace(order("vllm", tensor_parallel=tensor_parallel), threads=8)
    assert engine("vllm").launch(told).env["OMP_NUM_THREADS"] == threads


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vllm", {"tensor_parallel": 0}),
        ("vllm", {"speculation": "draft"}),
        ("vllm", {"python": "/bin/sh"}),
        ("sglang", {"kv_cache_dtype": "q8_0"}),
        ("triton", {"repository_model": "../x"}),
        ("triton-kserve", {"repository_model": "a/b"}),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="engine_settings"):
        engine(name).launch(order(name, **settings))


@pytest.mark.parametrize(
    ("name", "body", "load"),
    [
        (
            "vllm",
            b'vllm:num_requests_running{engine="0"} 3.0\nvllm:num_requests_waiting{engine="0"} 2.0\n'
            b'vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 2.0\n'
            b'vllm:kv_cache_usage_perc{engine="0"} 0.25\n',
            (3, 2, 0.25),
        ),
        (
            "sglang",
            b'sglang:num_running_reqs{tp_rank="0"} 3.0\nsglang:num_queue_reqs{tp_rank="0"} 2.0\n'
            b'sglang:token_usage{tp_rank="0"} 0.25\n',
            (3, 2, 0.25),
        ),
        (
            "tensorrt-llm",
            b'[{"numActiveRequests":1},{"numActiveRequests":3,"numQueuedRequests":2,"kvCacheStats":'
            b'{"usedNumBlocks":1,"maxNumBlocks":4}}]',
            (3, 2, 0.25),
        ),
        ("tensorrt-llm", b"[]", (0, 0, None)),
        ("triton", b'nv_inference_pending_request_count{model="m"} 3\n', (3, 0, None)),
    ],
)
def test_load_is_read_from_the_servers_metrics(
    name: str, body: bytes, load: tuple[int, int, float | None]
) -> None:
    seen = engine(name).load(body)
    assert (seen.running, seen.waiting, seen.kv_used_fraction) == load


@pytest.mark.parametrize("name", _CHATS)
def test_metrics_of_something_else_are_an_error(name: str) -> None:
    with pytest.raises(EngineFailed):
        engine(name).load(b"hello")


def test_vllms_refusals_are_translated() -> None:
    too_long = (
        b'{"error":{"message":"This model\'s maximum context length is 512 tokens. However, your prompt contains '
        b'at least 513 input tokens","type":"BadRequestError","param":"input_tokens","code":400}}'
    )
    error = engine("vllm").error(400, too_long)
    assert (error.code, error.status) == ("context_length_exceeded", 400)
    grammar: OutpaceError = engine("vllm").error(
        400,
        b'{"error":{"message":"Grammar error: Invalid type: objekt","type":"BadRequestError","code":400}}',
    )
    assert (grammar.status, grammar.param) == (400, "response_format")
