"""What an engine cannot honour is refused by name, and what asks for nothing never is."""

import json
from typing import Any

import pytest
from tests.gateway.openai.bodies import USER, chat, completion

from outpace.engines.parameters import AT_THE_DOOR
from outpace.engines.protocol import Capabilities
from outpace.gateway.openai.bounds import prompt_bound_tokens, prompt_text_bytes
from outpace.gateway.openai.errors import error_body, error_headers
from outpace.gateway.openai.models import model_body, models_body
from outpace.gateway.openai.parse import parse_chat, parse_completion, parse_embedding
from outpace.gateway.openai.support import require_supported
from outpace.values.errors import (
    BudgetSpent,
    InvalidKey,
    ModelNotFound,
    RateLimited,
    UnsupportedParameter,
)
from outpace.values.requests import ChatRequest
from outpace.values.snapshot import DeploymentEntry, KeyEntry, Snapshot

# An engine that knows nothing beyond the text itself.
BARE = Capabilities(
    tasks=frozenset({"chat", "completions", "embeddings"}),
    parameters={
        "chat": frozenset({"messages", "max_tokens", "max_completion_tokens"}),
        "completions": frozenset({"prompt", "max_tokens"}),
        "embeddings": frozenset({"input"}),
    },
)
TOOLS = [{"type": "function", "function": {"name": "look"}}]

NEUTRAL: list[dict[str, Any]] = [
    {"temperature": 1, "top_p": 1, "n": 1, "presence_penalty": 0, "frequency_penalty": 0.0},
    {"logprobs": False, "top_logprobs": 0, "logit_bias": {}, "stop": [], "tools": []},
    {"modalities": ["text"], "response_format": {"type": "text"}, "verbosity": "medium"},
    {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "prompt_cache_key": "k"},
    {
        "safety_identifier": "s",
        "stream": True,
        "stream_options": {"include_usage": True, "include_obfuscation": False},
    },
    {"tool_choice": "none", "parallel_tool_calls": False},
    {"tool_choice": "auto", "parallel_tool_calls": True},
    {
        "top_k": -1,
        "min_p": 0,
        "repetition_penalty": 1,
        "ignore_eos": False,
        "min_tokens": 0,
        "stop_token_ids": [],
    },
]


@pytest.mark.parametrize("fields", NEUTRAL)
def test_values_that_ask_for_nothing_are_fine_and_not_sent_on(fields: dict[str, Any]) -> None:
    request = parse_chat(chat(**fields))
    require_supported(request, BARE, "d")
    sent_on = json.loads(chat(**fields)).keys() & {"temperature", "top_p", "tool_choice", "store", "top_k"}
    assert all(getattr(request, name) is None for name in sent_on)


ASKING: list[dict[str, Any]] = [
    {"temperature": 0},
    {"top_p": 0.5},
    {"n": 2},
    {"seed": 1},
    {"stop": "x"},
    {"logprobs": True},
    {"logit_bias": {"1": 1}},
    {"presence_penalty": 1},
    {"response_format": {"type": "json_object"}},
    {"tools": TOOLS},
    {"reasoning_effort": "low"},
    {"verbosity": "low"},
    {"modalities": ["text", "audio"]},
    {"audio": {"voice": "x"}},
    {"prediction": {}},
    {"service_tier": "flex"},
    {"store": True},
    {"web_search_options": {}},
    {"moderation": {}},
    {"top_k": 5},
    {"min_p": 0.1},
    {"repetition_penalty": 1.1},
    {"chat_template_kwargs": {"a": 1}},
    {"ignore_eos": True},
    {"min_tokens": 2},
    {"stop_token_ids": [1]},
    {"return_token_ids": True},
]


@pytest.mark.parametrize("fields", ASKING)
def test_values_that_ask_for_something_are_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        require_supported(parse_chat(chat(**fields)), BARE, "d")
    assert caught.value.param in fields
    assert caught.value.code == "unsupported_parameter"


def test_every_chat_field_is_honoured_or_refused() -> None:
    """A field added to the wire struct without a decision here would be dropped in silence."""
    asked = {name for fields in (*ASKING, *NEUTRAL) for name in fields}
    old_form = {"functions", "function_call"}
    decided = asked | AT_THE_DOOR | BARE.parameters["chat"] | old_form
    assert set(ChatRequest.__struct_fields__) - decided == set()


def test_what_the_engine_declares_reaches_it() -> None:
    able = Capabilities(
        tasks=BARE.tasks, parameters={"chat": frozenset({"messages", "temperature", "n", "tools"})}
    )
    request = parse_chat(chat(temperature=1, n=1, tools=TOOLS, tool_choice="auto"))
    require_supported(request, able, "d")
    assert (request.temperature, request.n) == (1, 1)
    assert request.tools is not None
    with pytest.raises(UnsupportedParameter):
        require_supported(parse_chat(chat(tools=TOOLS, tool_choice="none")), able, "d")


def test_continuous_usage_is_refused_unless_declared() -> None:
    fields = {"stream": True, "stream_options": {"continuous_usage_stats": True}}
    with pytest.raises(UnsupportedParameter) as caught:
        require_supported(parse_chat(chat(**fields)), BARE, "d")
    assert caught.value.param == "stream_options.continuous_usage_stats"


def test_completions_and_embeddings_have_neutral_values_too() -> None:
    request = parse_completion(completion(echo=False, best_of=1, n=1, suffix="", stop=[]))
    require_supported(request, BARE, "d")
    with pytest.raises(UnsupportedParameter) as caught:
        # 0 asks for the chosen tokens' own probabilities: not the same as none.
        require_supported(parse_completion(completion(logprobs=0)), BARE, "d")
    assert caught.value.param == "logprobs"
    require_supported(parse_embedding(b'{"model":"m","input":"a","encoding_format":"float"}'), BARE, "d")
    with pytest.raises(UnsupportedParameter):
        require_supported(parse_embedding(b'{"model":"m","input":"a","dimensions":8}'), BARE, "d")


@pytest.mark.parametrize("text", ["hi", "ünïcödé 🙂" * 50, '\n\t"\\' * 100])
def test_the_bound_is_above_every_tokenizer(text: str) -> None:
    raw = chat(messages=[{**USER, "content": text}])
    assert prompt_bound_tokens(parse_chat(raw), len(raw)) > len(text.encode())
    raw = completion(prompt=[[1] * 100] * 3)
    assert prompt_bound_tokens(parse_completion(raw), len(raw)) > 300


def test_errors_have_openai_s_shape_and_steer_retries() -> None:
    limited = RateLimited("tokens", "Slow down.", 1.25)
    assert json.loads(error_body(limited)) == {
        "error": {"message": "Slow down.", "type": "tokens", "param": None, "code": "rate_limit_exceeded"}
    }
    assert dict(error_headers(limited)) == {b"retry-after": b"2", b"retry-after-ms": b"1250"}
    assert dict(error_headers(BudgetSpent("Spent."))) == {b"x-should-retry": b"false"}
    assert dict(error_headers(InvalidKey())) == {b"www-authenticate": b"Bearer"}


def _deployment(name: str) -> DeploymentEntry:
    return DeploymentEntry(
        name=name,
        model="m",
        engine_model="m",
        engine="echo",
        state="ready",
        created=7,
        owned_by="team",
        tasks=("chat",),
    )


def test_models_are_listed_for_the_key_alone() -> None:
    names = ("org/model:tag", "other")
    snapshot = Snapshot(version=1, written_at=0.0, deployments={name: _deployment(name) for name in names})
    free = KeyEntry(id="a", name="a", slot=0, scopes=("inference",))
    bound = KeyEntry(id="b", name="b", slot=1, scopes=("inference",), models=("other",))
    assert [each["id"] for each in json.loads(models_body(snapshot, free))["data"]] == list(names)
    assert [each["id"] for each in json.loads(models_body(snapshot, bound))["data"]] == ["other"]
    assert json.loads(model_body(snapshot, free, names[0])) == {
        "id": names[0], "object": "model", "created": 7, "owned_by": "team",
    }  # fmt: skip
    messages = set()
    for key, name in ((bound, names[0]), (bound, "absent"), (free, "../../etc/passwd")):
        with pytest.raises(ModelNotFound) as caught:
            model_body(snapshot, key, name)
        messages.add(caught.value.message)
    assert len(messages) == 1


def test_the_text_of_a_prompt_is_told_from_what_is_around_it() -> None:
    raw = b'{"model": "m", "messages": [{"role": "system", "content": "Be brief."}, '
    raw += '{"role": "user", "content": "Grüße aus Köln"}], "max_tokens": 64, "temperature": 0}'.encode()
    texts = len(b"Be brief.") + len("Grüße aus Köln".encode())
    assert texts < prompt_text_bytes(parse_chat(raw), len(raw)) < len(raw)
    parts = b'{"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]}'
    assert prompt_text_bytes(parse_chat(parts), len(parts)) == len(parts)
    raw = b'{"model": "m", "prompt": "Once upon a time"}'
    assert prompt_text_bytes(parse_completion(raw), len(raw)) == len(raw)
