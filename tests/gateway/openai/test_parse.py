"""From the wire to values: what is wrong is refused by its field's name, whatever the bytes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.openai.bodies import (
    USER,
    chat,
    completion,
    parsed,
    refused,
    refused_chat,
    refused_completion,
)

from outpace.gateway.openai.media import require_json
from outpace.gateway.openai.parse import parse_chat, parse_completion, parse_embedding
from outpace.gateway.openai.prompts import check_vocabulary
from outpace.values.errors import InvalidInput, UnsupportedMedia
from outpace.values.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    FunctionChoice,
    FunctionTool,
    UserMessage,
)

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CALL = {"id": "call-1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
ANSWER = {"role": "tool", "content": "5", "tool_call_id": "call-1"}


def test_a_good_chat_becomes_values() -> None:
    request = parsed(temperature=0.5, max_completion_tokens=9, stream=True, stop=["a"], logit_bias={"7": -5})
    assert request.messages == [UserMessage(content="hi")]
    assert (request.temperature, request.max_completion_tokens, request.stop) == (0.5, 9, ["a"])


@pytest.mark.parametrize(
    "raw", [b"NaN", b"Infinity", b"-Infinity", b"1e400", b'"1"', b"true", b"-1", b"3", b"[]"]
)
def test_a_temperature_is_a_number_from_0_to_2(raw: bytes) -> None:
    error = refused(b'{"model":"m","messages":[{"role":"user","content":"hi"}],"temperature":' + raw + b"}")
    assert error.param == "temperature"


@pytest.mark.parametrize(
    "text",
    [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", rb"\ud800", rb"\udc00\ud800", b"\xf5\x80\x80\x80", b"a\x00b"],
)
def test_text_must_be_unicode(text: bytes) -> None:
    refused(b'{"model":"m","messages":[{"role":"user","content":"' + text + b'"}]}')


@pytest.mark.parametrize(
    "raw", [b"", b"null", b"[]", b"7", b'"a"', b"{", b'{"model":"m"} x', b"\xef\xbb\xbf{}"]
)
def test_a_body_is_one_json_object(raw: bytes) -> None:
    refused(raw)
    refused(raw, parse_completion)
    refused(raw, parse_embedding)


@pytest.mark.parametrize(
    "nested",
    [
        b"[" * 100_000,
        b'{"model":"m","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model":"m","messages":[],"metadata":' + b'{"a":' * 100_000,
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"chat_template_kwargs":{"a":'
        + b"[" * 100_000
        + b"]" * 100_000
        + b"}}",
    ],
)
def test_deep_nesting_ends_no_interpreter(nested: bytes) -> None:
    refused(nested)


@pytest.mark.parametrize("depth", [40, 500])
def test_free_fields_are_bounded_in_depth_and_size(depth: int) -> None:
    deep: Any = "x"
    for _ in range(depth):
        deep = [deep]
    assert refused_chat(prediction={"a": deep}).param == "prediction"
    assert refused_chat(chat_template_kwargs={"a": [[]] * 5_000}).param == "chat_template_kwargs"
    assert refused_chat(messages=[{"role": "assistant", "content": "a", "annotations": [deep]}]).param == (
        "messages[0].annotations"
    )


FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"cache_salt": "x"}, "cache_salt"),
    "engine internals": ({"kv_transfer_params": {}}, "kv_transfer_params"),
    "api_base": ({"api_base": "http://evil"}, "api_base"),
    "nested unknown": ({"messages": [{**USER, "priority": 1}]}, "messages[0].priority"),
    "nested in options": ({"stream": True, "stream_options": {"api_base": "x"}}, "stream_options.api_base"),
    "n 0": ({"n": 0}, "n"),
    "n -1": ({"n": -1}, "n"),
    "n huge": ({"n": 10**9}, "n"),
    "n beyond 64 bit": ({"n": 10**400}, "n"),
    "n fraction": ({"n": 1.5}, "n"),
    "five stops": ({"stop": ["a"] * 5}, "stop"),
    "many stops": ({"stop": ["a"] * 10_000}, "stop"),
    "empty stop": ({"stop": ""}, "stop"),
    "empty stop in a list": ({"stop": ["a", ""]}, "stop[1]"),
    "long stop": ({"stop": "x" * 1_000_000}, "stop"),
    "many biases": ({"logit_bias": {str(index): 1 for index in range(2_000)}}, "logit_bias"),
    "bias key": ({"logit_bias": {"abc": 1}}, "logit_bias"),
    "negative bias key": ({"logit_bias": {"-1": 1}}, "logit_bias"),
    "long bias key": ({"logit_bias": {"9" * 5_000: 1}}, "logit_bias"),
    "bias value": ({"logit_bias": {"1": 10**9}}, "logit_bias"),
    "seed": ({"seed": 2**63}, "seed"),
    "top_p": ({"top_p": 1.1}, "top_p"),
    "penalty": ({"presence_penalty": -2.1}, "presence_penalty"),
    "max_tokens 0": ({"max_tokens": 0}, "max_tokens"),
    "both limits": ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"),
    "top_logprobs alone": ({"top_logprobs": 3}, "top_logprobs"),
    "too many top_logprobs": ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    "stream_options alone": ({"stream_options": {"include_usage": True}}, "stream_options"),
    "format": ({"response_format": {"type": "sound"}}, "response_format.type"),
    "format without type": ({"response_format": {}}, "response_format.type"),
    "format as text": ({"response_format": "json"}, "response_format"),
    "schema 123": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": 123}}},
        "response_format.json_schema.schema",
    ),
    "schema name": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a\n", "schema": {}}}},
        "response_format.json_schema.name",
    ),
    "effort": ({"reasoning_effort": "huge"}, "reasoning_effort"),
    "metadata value": ({"metadata": {"a": 1}}, "metadata"),
    "metadata entries": ({"metadata": {str(index): "a" for index in range(17)}}, "metadata"),
    "no messages": ({"messages": []}, "messages"),
    "many messages": ({"messages": [USER] * 100_000}, "messages"),
    "role": ({"messages": [{"role": "king", "content": "a"}]}, "messages[0].role"),
    "no role": ({"messages": [{"content": "a"}]}, "messages[0].role"),
    "content null": ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    "no parts": ({"messages": [{"role": "system", "content": []}]}, "messages[0].content"),
    "part type": ({"messages": [{"role": "user", "content": [{"type": "x"}]}]}, "messages[0].content[0].type"),
    "assistant says nothing": ({"messages": [USER, {"role": "assistant"}]}, "messages[1].content"),
    "empty tool_calls": (
        {"messages": [{"role": "assistant", "content": None, "tool_calls": []}]},
        "messages[0].content",
    ),
    "tool without call": ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].tool_call_id"),
    "tool with unknown call": (
        {"messages": [USER, {"role": "tool", "content": "a", "tool_call_id": "x"}]},
        "messages[1].tool_call_id",
    ),
    "tool before its call": (
        {"messages": [ANSWER, {"role": "assistant", "tool_calls": [CALL]}]},
        "messages[0].tool_call_id",
    ),
    "many tools": ({"tools": [TOOL] * 1_000}, "tools"),
    "tool name": ({"tools": [{"type": "function", "function": {"name": "../"}}]}, "tools[0].function.name"),
    "long tool name": ({"tools": [{"type": "function", "function": {"name": "a" * 10_000}}]}, "tools[0].function.name"),
    "tool name with line end": (
        {"tools": [{"type": "function", "function": {"name": "a\n"}}]},
        "tools[0].function.name",
    ),
    "same tool twice": ({"tools": [TOOL, TOOL]}, "tools[1]"),
    "tool schema": (
        {"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]},
        "tools[0].function.parameters",
    ),
    "custom tool without name": ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].custom.name"),
    "absent tool": (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}},
        "tool_choice",
    ),
    "absent allowed tool": (
        {
            "tools": [TOOL],
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "x"}}]},
            },
        },
        "tool_choice",
    ),
    "choice without tools": ({"tool_choice": "required"}, "tool_choice"),
    "choice of a wrong word": ({"tools": [TOOL], "tool_choice": "perhaps"}, "tool_choice"),
    "old and new tools": ({"tools": [TOOL], "functions": [{"name": "a"}]}, "functions"),
    "old choice of an absent function": (
        {"functions": [{"name": "a"}], "function_call": {"name": "b"}},
        "tool_choice",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), FIELDS.values(), ids=FIELDS.keys())
def test_a_wrong_chat_field_is_named(fields: dict[str, Any], param: str) -> None:
    assert refused_chat(**fields).param == param


COMPLETIONS: dict[str, tuple[dict[str, Any], str]] = {
    "number": ({"prompt": 5}, "prompt"),
    "null": ({"prompt": None}, "prompt"),
    "no items": ({"prompt": []}, "prompt"),
    "many strings": ({"prompt": ["a"] * 1_000_000}, "prompt"),
    "negative id": ({"prompt": [1, -1]}, "prompt[1]"),
    "fraction": ({"prompt": [1, 1.5]}, "prompt[1]"),
    "bool": ({"prompt": [1, True]}, "prompt[1]"),
    "huge id": ({"prompt": [2**40]}, "prompt[0]"),
    "mixed": ({"prompt": ["a", 1]}, "prompt[1]"),
    "empty list inside": ({"prompt": [[1], []]}, "prompt[1]"),
    "nested too deeply": ({"prompt": [[[1]]]}, "prompt[0][0]"),
    "object": ({"prompt": {"a": 1}}, "prompt"),
    "best_of below n": ({"n": 3, "best_of": 2}, "best_of"),
    "best_of streamed": ({"best_of": 2, "stream": True}, "best_of"),
    "n times prompts": ({"prompt": ["a"] * 65, "n": 2}, "n"),
    "best_of times prompts": ({"prompt": ["a"] * 13, "best_of": 10}, "n"),
    "max_tokens 0": ({"max_tokens": 0}, "max_tokens"),
    "logprobs": ({"logprobs": 6}, "logprobs"),
    "chat's field": ({"messages": [USER]}, "messages"),
}


@pytest.mark.parametrize(("fields", "param"), COMPLETIONS.values(), ids=COMPLETIONS.keys())
def test_a_wrong_completion_field_is_named(fields: dict[str, Any], param: str) -> None:
    assert refused_completion(**fields).param == param


@pytest.mark.parametrize("prompt", ["", "a", ["a", ""], [1, 2], [[1], [2, 3]]])
def test_the_four_prompt_forms(prompt: object) -> None:
    assert parse_completion(completion(prompt=prompt)).prompt == prompt


@pytest.mark.parametrize("given_input", ["", [], [""], ["a"] * 2_049, [[]], {"a": 1}, [1, "a"]])
def test_embeddings_refuse_empty_and_too_many_inputs(given_input: object) -> None:
    raw = json.dumps({"model": "m", "input": given_input}).encode()
    assert (refused(raw, parse_embedding).param or "").startswith("input")


def test_messages_say_what_would_be_right() -> None:
    assert "at most 2" in refused_chat(temperature=3).message
    assert "json_object, json_schema, text" in refused_chat(response_format={"type": "sound"}).message
    assert "high, low, medium" in refused_chat(verbosity="x").message
    assert "a string, not a whole number" in refused_chat(model=5).message


def test_refusals_do_not_repeat_values() -> None:
    secret = "sk-live-0123456789"
    for fields in ({"response_format": {"type": secret}}, {"verbosity": secret}, {"temperature": secret}):
        assert secret not in refused_chat(**fields).message


def test_a_name_given_twice_counts_where_it_stands_last() -> None:
    raw = b'{"model":"a","messages":[{"role":"user","content":"x"}],"model":"b","temperature":9,"temperature":1}'
    assert refused(raw).param == "temperature"
    assert parse_chat(raw.replace(b'"temperature":9,', b"")).model == "b"


def test_the_old_function_form_becomes_tools() -> None:
    request = parsed(functions=[{"name": "look"}], function_call={"name": "look"})
    assert request.tools is not None
    assert isinstance(request.tools[0], FunctionTool)
    assert isinstance(request.tool_choice, FunctionChoice)
    assert request.functions is None
    assert request.function_call is None


def test_conversations_that_are_unusual_but_right() -> None:
    said = {"role": "assistant", "content": "a <|im_end|> b <image>"}
    request = parsed(messages=[said, said, USER, {"role": "assistant", "tool_calls": [CALL]}, ANSWER, ANSWER])
    assert len(request.messages) == 6


def test_token_ids_must_be_in_the_vocabulary() -> None:
    good: list[ChatRequest | CompletionRequest | EmbeddingRequest] = [
        parsed(logit_bias={"99": 1}, stop_token_ids=[99]),
        parse_completion(completion(prompt=[[1], [99]])),
        parse_embedding(b'{"model":"m","input":[1,99]}'),
        parse_embedding(b'{"model":"m","input":"text"}'),
    ]
    for request in good:
        check_vocabulary(request, 100)
        check_vocabulary(request, None)
    for request, name in zip(good[:3], ("logit_bias", "prompt", "input"), strict=True):
        with pytest.raises(InvalidInput) as caught:
            check_vocabulary(request, 99)
        assert caught.value.param == name


@pytest.mark.parametrize(
    "good", [b"", b"application/json", b"Application/JSON; charset=utf-8", b"application/x+json"]
)
def test_json_content_types(good: bytes) -> None:
    require_json(good)


@pytest.mark.parametrize("bad", [b"text/plain", b"application/xml", b"multipart/form-data", b"json"])
def test_other_content_types_are_415(bad: bytes) -> None:
    with pytest.raises(UnsupportedMedia):
        require_json(bad)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_NAMES = st.sampled_from(
    sorted({*ChatRequest.__struct_fields__, *CompletionRequest.__struct_fields__, "input", "encoding_format"})
)


@given(raw=st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(raw: bytes) -> None:
    for parse in (parse_chat, parse_completion, parse_embedding):
        try:
            parse(raw)
        except InvalidInput:
            continue


@given(fields=st.dictionaries(_NAMES, _JSON, max_size=5))
def test_any_json_in_any_field_is_parsed_or_refused(fields: dict[str, Any]) -> None:
    for raw, parse in (
        (chat(**fields), parse_chat),
        (completion(**fields), parse_completion),
        (json.dumps({"model": "m", "input": "x", **fields}).encode(), parse_embedding),
    ):
        try:
            parse(raw)
        except InvalidInput as error:
            problem = error
            assert problem.param is None or len(problem.param) < 500
