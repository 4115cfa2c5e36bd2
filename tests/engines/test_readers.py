"""Readers of OpenAI-style streams: any cut of the bytes gives the same events, and none is lost or invented."""

import itertools
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.engines.folding import FoldingReader
from outpace.engines.llamacpp_reader import LlamaReader, StreamPlan
from outpace.engines.readers import AnswerReader, EventReader, PassingReader
from outpace.engines.refusals import translate
from outpace.values.errors import ContextTooLong, EngineFailed
from outpace.values.usage import Usage

TAIL = b',"id":"chatcmpl-1","model":"m","system_fingerprint":"b","object":"chat.completion.chunk"'
LLAMA = b"".join(
    b"data: " + event + b"\n\n"
    for event in (
        b'{"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],"created":1'
        + TAIL
        + b',"prompt_progress":{"total":9,"cache":2,"processed":0,"time_ms":0}}',
        b'{"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],"created":1'
        + TAIL
        + b"}",
        b'{"choices":[{"finish_reason":null,"index":0,"delta":{"content":"a \\"usage\\":{ "}}],"created":1'
        + TAIL
        + b"}",
        b'{"choices":[{"finish_reason":null,"index":0,"delta":{"content":"\xc3\xa9\\n\\n"}}],"created":2'
        + TAIL
        + b"}",
        b'{"choices":[{"finish_reason":"stop","index":0,"delta":{}}],"created":2'
        + TAIL
        + b',"timings":{"predicted_n":2}}',
        b'{"choices":[],"created":2'
        + TAIL
        + b',"usage":{"completion_tokens":3,"prompt_tokens":9,"total_tokens":12,'
        b'"prompt_tokens_details":{"cached_tokens":2}},"timings":{"predicted_n":2}}',
        b"[DONE]",
    )
)
OPENAI = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":5,"model":"up","choices":[{"index":0,"delta":'
    b'{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
    b": a comment\n\n"
    b'event: message\ndata: {"id":"c","object":"chat.completion.chunk","created":5,"model":"up","choices":[{"index":0,'
    b'"delta":{"content":"x"},"finish_reason":null}]}\n\n'
    b'data: {"id":"c","object":"chat.completion.chunk","created":5,"model":"up","choices":[{"index":0,"delta":'
    b'{"content":"say \\"model\\":\\"up\\""},"finish_reason":null}]}\n\n'
    b'data: {"id":"c","object":"chat.completion.chunk","created":5,"model":"up","choices":[{"index":0,"delta":{},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":4,"completion_tokens":2,"total_tokens":6}}\n\n'
    b"data: [DONE]\n\n"
)


def llama(**plan: Any) -> LlamaReader:
    return LlamaReader(translate, StreamPlan(is_chat=True, **plan))


def passing(wants_usage: bool = False) -> PassingReader:
    return PassingReader(translate, wants_usage=wants_usage, model=b'"public/name"')


def read(reader: EventReader | FoldingReader | AnswerReader, stream: bytes, *cuts: int) -> bytes:
    reader.started(200, {})
    places = [0, *sorted(cuts), len(stream)]
    pieces = [stream[start:end] for start, end in itertools.pairwise(places)]
    return b"".join([reader.feed(piece) for piece in pieces]) + reader.finished()


def events(sent: bytes) -> list[Any]:
    return [json.loads(event[6:]) for event in sent.split(b"\n\n") if event and event != b"data: [DONE]"]


@pytest.mark.parametrize(("make", "stream"), [(llama, LLAMA), (passing, OPENAI)])
@pytest.mark.parametrize("wants_usage", [False, True])
def test_every_cut_in_two_gives_the_same_bytes(
    make: Callable[..., EventReader], stream: bytes, wants_usage: bool
) -> None:
    whole = read(make(wants_usage=wants_usage), stream)
    for cut in range(len(stream)):
        assert read(make(wants_usage=wants_usage), stream, cut) == whole


@given(cuts=st.lists(st.integers(0, len(OPENAI)), max_size=30), is_crlf=st.booleans())
def test_any_cuts_and_line_ends_give_the_same_bytes(cuts: list[int], is_crlf: bool) -> None:
    stream = OPENAI.replace(b"\n", b"\r\n") if is_crlf else OPENAI
    reader = passing()
    assert read(reader, stream, *cuts) == read(passing(), OPENAI)
    assert reader.usage == Usage(4, 2)


@given(
    texts=st.lists(st.text(min_size=1), min_size=1, max_size=8),
    wants_usage=st.booleans(),
    is_spaced=st.booleans(),
)
def test_any_text_passes_unchanged(texts: list[str], wants_usage: bool, is_spaced: bool) -> None:
    separators = (", ", ": ") if is_spaced else (",", ":")
    head = {"id": "c", "object": "chat.completion.chunk", "created": 5, "model": "up"}
    chunks = [
        {**head, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
        for text in texts
    ]
    chunks.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    stream = b"".join(
        b"data: " + json.dumps(chunk, separators=separators).encode() + b"\n\n" for chunk in chunks
    )
    reader = passing(wants_usage)
    sent = events(read(reader, stream + b"data: [DONE]\n\n"))
    assert [event["choices"][0]["delta"].get("content") for event in sent if event["choices"]] == [
        *texts,
        None,
    ]
    assert {event["model"] for event in sent} == {"public/name"}
    assert all(("usage" in event) == wants_usage for event in sent)
    assert reader.usage.completion_tokens == len(texts)
    assert reader.is_estimated


def test_llamacpps_guesses_are_counted_once() -> None:
    guessed = b'"timings":{"predicted_n":2,"draft_n":8,"draft_n_accepted":5}'
    reader = llama(wants_usage=True)
    read(reader, LLAMA.replace(b'"timings":{"predicted_n":2}', guessed))
    assert reader.usage == Usage(9, 3, cached_tokens=2, drafted_tokens=8, accepted_tokens=5)


def test_llamacpps_own_marks_do_not_reach_the_client() -> None:
    reader = llama(wants_usage=True)
    sent = events(read(reader, LLAMA))
    assert {event["created"] for event in sent} == {1}
    assert all("timings" not in event and "prompt_progress" not in event for event in sent)
    assert sent[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [event["usage"] for event in sent[:-1]] == [None] * 4
    assert sent[-1]["usage"]["total_tokens"] == 12
    assert reader.usage == Usage(9, 3, cached_tokens=2)
    assert reader.finish_reason == "stop"


def test_prompt_tokens_are_known_before_the_first_token() -> None:
    reader = llama()
    reader.started(200, {})
    assert reader.feed(LLAMA[: LLAMA.index(b"\n\n") + 2]) == b""
    assert reader.usage == Usage(9, 0, cached_tokens=2)


def test_a_prompt_that_leaves_no_room_is_refused_before_any_byte() -> None:
    reader = llama(output_tokens=8, context_tokens=16)
    with pytest.raises(ContextTooLong, match=r"16 tokens.* 17 \(9 prompt, 8 output\)"):
        read(reader, LLAMA)
    assert read(llama(output_tokens=7, context_tokens=16), LLAMA)


def test_a_folded_stream_is_the_whole_answer() -> None:
    answer = json.loads(read(FoldingReader(llama(), is_chat=True), LLAMA))
    assert answer["object"] == "chat.completion"
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": 'a "usage":{ é\n\n', "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("make", [llama, passing, partial(FoldingReader, llama(), is_chat=True)])
def test_a_stream_that_breaks_off_is_a_failure(make: Callable[[], EventReader]) -> None:
    stream = LLAMA if make is not passing else OPENAI
    with pytest.raises(EngineFailed, match="broke off"):
        read(make(), stream[: stream.index(b'"finish_reason":"stop"')])


@pytest.mark.parametrize("make", [llama, passing])
@pytest.mark.parametrize(
    "garbage",
    [b'data: {"choices":[{"finish_reason":"st\n\n', b'data: {"error":{"message":"secret"}}\n\n', b"<html>"],
)
def test_garbage_in_a_stream_is_a_failure_without_its_words(
    make: Callable[[], EventReader], garbage: bytes
) -> None:
    with pytest.raises(EngineFailed) as failure:
        read(make(), garbage)
    assert "secret" not in failure.value.message


def test_an_event_without_end_is_bounded() -> None:
    reader = passing()
    for _ in range(16):
        reader.feed(b"x" * (1 << 20))
    with pytest.raises(EngineFailed, match="without end"):
        reader.feed(b"x")


def test_an_end_without_the_terminal_event_is_completed() -> None:
    sent = read(passing(), OPENAI.removesuffix(b"data: [DONE]\n\n"))
    assert sent == read(passing(), OPENAI)


@pytest.mark.parametrize(
    "body", [b"", b"<html></html>", b"{}", b'{"choices":[]}', b"[1]", b'{"choices":[{}]']
)
def test_a_whole_answer_that_is_none_is_a_failure(body: bytes) -> None:
    with pytest.raises(EngineFailed):
        read(AnswerReader(translate), body)
