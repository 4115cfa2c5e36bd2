"""A request in llama.cpp's words: nothing lost, nothing passed that was not asked for."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.engines.messages import defuser
from outpace.engines.registry import engine
from outpace.values.errors import InvalidInput, UnsupportedParameter
from outpace.values.requests import (
    AssistantMessage,
    ChatRequest,
    CompletionRequest,
    DeveloperMessage,
    FunctionCall,
    ImagePart,
    ImageUrl,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from outpace.values.snapshot import DeploymentEntry

CONTROLS = ("<|im_start|>", "<|im_end|>", "<eot>")


def deployment(**fields: Any) -> DeploymentEntry:
    return DeploymentEntry(
        name="public",
        model="m",
        engine_model="inside",
        engine="llamacpp",
        state="ready",
        created=1,
        owned_by="o",
        tasks=("chat", "completions"),
        context_tokens=8192,
        control_texts=CONTROLS,
        **fields,
    )


def body_of(request: ChatRequest | CompletionRequest, **fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(engine("llamacpp").call(request, deployment(**fields), "r").body)
    return body


def chat(*messages: Any, **fields: Any) -> ChatRequest:
    return ChatRequest(model="public", messages=list(messages) or [UserMessage(content="hi")], **fields)


def test_only_what_was_asked_for_is_sent() -> None:
    assert body_of(chat(user="me", metadata={"a": "b"}, store=False)) == {
        "model": "inside",
        "messages": [{"role": "user", "content": "hi"}],
        # Only a stream is given up when its client leaves, whatever the client asked for.
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_progress": True,
    }


def test_names_differ_where_llamacpp_differs() -> None:
    body = body_of(chat(max_completion_tokens=5, repetition_penalty=1.2, seed=-1, logprobs=True))
    assert body["max_tokens"] == 5
    assert body["repeat_penalty"] == 1.2
    assert body["repeat_last_n"] == -1
    assert 0 <= body["seed"] < 2**32 - 1
    assert body["top_logprobs"] == 1
    assert body_of(CompletionRequest(model="m", prompt="x"))["max_tokens"] == 16


@given(st.integers(-(2**63), 2**63 - 1))
def test_no_seed_means_random_to_llamacpp(seed: int) -> None:
    assert 0 <= body_of(chat(seed=seed))["seed"] < 2**32 - 1


@given(
    st.lists(st.sampled_from([*CONTROLS, "<", "|", "im_end", ">", "é", "\u200b", "<|", "eot>"]), max_size=12)
)
def test_no_control_text_survives_and_all_else_stays(pieces: list[str]) -> None:
    text = "".join(pieces)
    defused = defuser(CONTROLS)(text)
    assert not any(control in defused for control in CONTROLS)
    assert defused.replace("\u200b", "") == text.replace("\u200b", "")


def test_every_text_of_a_conversation_is_defused() -> None:
    bad = "a<|im_end|>b"
    call = ToolCall(id="c1", function=FunctionCall(name="f", arguments='{"x":"<|im_end|>"}'))
    sent = json.dumps(
        body_of(
            chat(
                DeveloperMessage(content=bad),
                UserMessage(content=[TextPart(text=bad)], name="<eot>x"),
                AssistantMessage(content=None, tool_calls=[call], reasoning_content=bad),
                ToolMessage(content=bad, tool_call_id="c1"),
                chat_template_kwargs={"style": bad},
            )
        ),
        ensure_ascii=False,
    )
    assert not any(control in sent for control in CONTROLS)
    assert sent.count("\u200b") == 7


def test_developer_is_system_and_parts_are_joined() -> None:
    messages = body_of(
        chat(DeveloperMessage(content="a"), UserMessage(content=[TextPart(text="b"), TextPart(text="c")]))
    )["messages"]
    assert messages == [{"role": "system", "content": "a"}, {"role": "user", "content": "b\nc"}]


def test_an_image_is_refused_by_its_place() -> None:
    image = ImagePart(image_url=ImageUrl(url="data:image/png;base64,xx"))
    with pytest.raises(UnsupportedParameter) as refusal:
        body_of(chat(UserMessage(content=[TextPart(text="a"), image])))
    assert refusal.value.param == "messages[0].content[1]"
    assert "image_url" in refusal.value.message


@pytest.mark.parametrize(
    "kwargs",
    [{"messages": "x"}, {"a b": 1}, {"x": {"deep": 1}}, {"x": "y" * 257}, {f"k{n}": 1 for n in range(17)}],
)
def test_template_variables_are_flags_and_short_words(kwargs: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="chat_template_kwargs"):
        body_of(chat(chat_template_kwargs=kwargs))
    assert body_of(chat(chat_template_kwargs={"enable_thinking": False}))["chat_template_kwargs"] == {
        "enable_thinking": False
    }


@pytest.mark.parametrize("field", ["suffix", "best_of", "min_tokens", "stop_token_ids", "return_token_ids"])
def test_what_llamacpp_cannot_do_is_refused_by_name(field: str) -> None:
    values: dict[str, Any] = {"suffix": "x", "best_of": 2, "min_tokens": 1, "stop_token_ids": [1]}
    request = CompletionRequest(model="m", prompt="x", **{field: values.get(field, True)})
    with pytest.raises(UnsupportedParameter) as refusal:
        body_of(request)
    assert refusal.value.param == field


@pytest.mark.parametrize("prompt", [[1, 2], [[1, 2]]])
def test_echo_of_token_ids_is_refused(prompt: Any) -> None:
    with pytest.raises(UnsupportedParameter, match="echo"):
        body_of(CompletionRequest(model="m", prompt=prompt, echo=True))
