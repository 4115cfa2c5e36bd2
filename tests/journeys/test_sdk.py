"""JOURNEY the first five minutes: the official SDK drives every endpoint against a real model."""

from collections.abc import Iterator

import pytest
from openai import AuthenticationError, BadRequestError, NotFoundError, OpenAI
from openai.types.chat import ChatCompletionMessageParam
from tests.journeys.conftest import CHAT, EMBED, Platform

QUESTION: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "What is the capital of France? Answer in one sentence."}
]


def test_models_are_listed_and_found(openai: OpenAI) -> None:
    assert {CHAT, EMBED} <= {model.id for model in openai.models.list()}
    assert openai.models.retrieve(CHAT).object == "model"


def test_a_chat_answers(openai: OpenAI) -> None:
    answer = openai.chat.completions.create(model=CHAT, messages=QUESTION, max_tokens=24, temperature=0)
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason in {"stop", "length"}
    assert answer.model == CHAT
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert 0 < answer.usage.completion_tokens <= 24


def test_a_streamed_chat_is_the_same_answer_in_pieces(openai: OpenAI) -> None:
    whole = openai.chat.completions.create(
        model=CHAT, messages=QUESTION, max_tokens=24, temperature=0, seed=1
    )
    chunks = list(
        openai.chat.completions.create(
            model=CHAT,
            messages=QUESTION,
            max_tokens=24,
            temperature=0,
            seed=1,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert len({chunk.id for chunk in chunks}) == 1
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert reasons == [whole.choices[0].finish_reason]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_completions_keep_the_order_of_prompts(openai: OpenAI) -> None:
    answer = openai.completions.create(
        model=CHAT, prompt=["One, two, three,", "The sky is"], max_tokens=4, temperature=0
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(choice.text for choice in answer.choices)


def test_embeddings_tell_near_from_far(openai: OpenAI) -> None:
    texts = ["a cat sleeps on the sofa", "a kitten naps on the couch", "interest rates rose by two percent"]
    answer = openai.embeddings.create(model=EMBED, input=texts)
    cat, kitten, rates = (item.embedding for item in answer.data)
    assert len(cat) == len(kitten) == 576
    assert cosine(cat, kitten) > cosine(cat, rates)
    assert answer.usage.prompt_tokens > 0


def test_a_client_that_leaves_does_not_disturb_the_next(openai: OpenAI) -> None:
    for _ in leave_after_first(openai):
        break
    answer = openai.chat.completions.create(model=CHAT, messages=QUESTION, max_tokens=4)
    assert answer.choices[0].message.content


def test_errors_are_the_sdks_own_classes(openai: OpenAI, platform: Platform) -> None:
    with platform.client(key="sk-outpace-wrong") as stranger, pytest.raises(AuthenticationError):
        stranger.models.list()
    with pytest.raises(NotFoundError, match="does not exist"):
        openai.chat.completions.create(model="gpt-none", messages=QUESTION)
    with pytest.raises(BadRequestError) as refused:
        openai.chat.completions.create(model=CHAT, messages=QUESTION, temperature=9)
    assert refused.value.param == "temperature"
    with pytest.raises(BadRequestError) as refused:
        openai.chat.completions.create(model=CHAT, messages=QUESTION, extra_body={"tempature": 1})
    assert "tempature" in refused.value.message
    with pytest.raises(BadRequestError) as refused:
        openai.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": "word " * 9000}])
    assert refused.value.code == "context_length_exceeded"


def leave_after_first(client: OpenAI) -> Iterator[object]:
    """The pieces of a long answer; whoever stops iterating closes the connection."""
    with client.chat.completions.create(
        model=CHAT, messages=QUESTION, max_tokens=2000, stream=True
    ) as stream:
        yield from stream


def cosine(one: list[float], other: list[float]) -> float:
    """Similarity of two vectors, -1 to 1."""
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return float(product / (sum(a * a for a in one) * sum(b * b for b in other)) ** 0.5)
