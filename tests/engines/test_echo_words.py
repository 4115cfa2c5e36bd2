"""What the echo engine says."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.engines.echo_words import Body, Switches, embeddings, plan_chat, plan_completions
from outpace.values.errors import ContextTooLong, InvalidInput

WORDS = st.lists(st.text("abcxyz", min_size=1, max_size=5), min_size=1, max_size=9)


@given(words=WORDS, limit=st.integers(1, 30), num_choices=st.integers(1, 3))
def test_it_repeats_the_words_up_to_the_limit(words: list[str], limit: int, num_choices: int) -> None:
    plan = plan_completions(Body(prompt=" ".join(words), max_tokens=limit, n=num_choices), Switches())
    assert plan.prompt_tokens == len(words)
    assert plan.completion_tokens == limit * num_choices
    for index, choice in enumerate(plan.choices):
        said = "".join(choice.tokens).split()
        assert said == [words[(index + place) % len(words)] for place in range(limit)]
        assert choice.finish_reason == "length"


@given(words=WORDS, length=st.integers(1, 20), limit=st.integers(1, 20))
def test_a_natural_length_ends_with_stop(words: list[str], length: int, limit: int) -> None:
    plan = plan_completions(Body(prompt=" ".join(words), max_tokens=limit), Switches(tokens=length))
    assert plan.longest == min(length, limit)
    assert plan.choices[0].finish_reason == ("stop" if length <= limit else "length")


@given(words=WORDS, stop=st.text("abc ", min_size=1, max_size=3))
def test_stop_cuts_before_the_first_occurrence(words: list[str], stop: str) -> None:
    prompt = " ".join(words)
    whole = "".join(plan_completions(Body(prompt=prompt, max_tokens=20), Switches()).choices[0].tokens)
    (choice,) = plan_completions(Body(prompt=prompt, max_tokens=20, stop=[stop]), Switches()).choices
    assert "".join(choice.tokens) == whole.partition(stop)[0]
    assert choice.finish_reason == ("stop" if stop in whole else "length")


def test_a_prompt_and_its_output_must_fit() -> None:
    fits = Switches(context_tokens=5)
    assert plan_completions(Body(prompt="a b c", max_tokens=2), fits).longest == 2
    with pytest.raises(ContextTooLong, match="needs 6"):
        plan_completions(Body(prompt="a b c", max_tokens=3), fits)


def test_a_magic_word_sets_a_switch_for_one_request() -> None:
    plan = plan_completions(Body(prompt="echo:hang echo:tokens=3 a", max_tokens=9), Switches(delay_ms=5))
    assert plan.switches == Switches(hang=True, tokens=3, delay_ms=5)
    assert plan.longest == 3
    with pytest.raises(InvalidInput, match="switch"):
        plan_completions(Body(prompt="echo:no_such"), Switches())


def test_only_the_last_user_message_is_said_but_all_are_counted() -> None:
    raw = b"""{"messages":[{"role":"system","content":"be kind"},{"role":"user","content":"one"},
        {"role":"assistant","content":null},{"role":"user","content":[{"type":"text","text":"two three"}]}]}"""
    plan = plan_chat(msgspec.json.decode(raw, type=Body), Switches())
    assert plan.choices[0].tokens == ["two", " three"]
    assert plan.choices[0].finish_reason == "stop"
    assert plan.prompt_tokens == 5


@given(dimensions=st.integers(1, 64))
def test_embeddings_are_unit_vectors_that_follow_the_words(dimensions: int) -> None:
    (first, again, other), total = embeddings(Body(input=["a b", "a b", "c"], dimensions=dimensions))
    assert first == again
    assert total == 5
    assert isinstance(other, list)
    assert sum(value * value for value in other) == pytest.approx(1)
