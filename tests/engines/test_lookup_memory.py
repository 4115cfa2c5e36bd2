"""What was said before: found again, forgotten in order, and never told to another key."""

from hypothesis import given
from hypothesis import strategies as st

from outpace.engines.lookup_memory import _TOKENS, MEMORY_RUNS, Memories, Memory, Text

ANSWER = [*range(100, 140)]


def test_what_followed_in_an_earlier_answer_is_found_by_the_longest_run() -> None:
    memory = Memory()
    memory.learn(ANSWER)
    assert memory.following([1, 2, *ANSWER[3:8]], 4) == (0, ANSWER[8:12])
    assert memory.following([1, 2, *ANSWER[3:6]], 4) == (1, ANSWER[6:10])
    assert memory.following([ANSWER[0]], 4) == (len(MEMORY_RUNS) - 1, ANSWER[1:5])


def test_the_latest_answer_counts_and_none_runs_into_the_next() -> None:
    memory = Memory()
    memory.learn([7, 8, 1])
    memory.learn([7, 8, 2])
    memory.learn([9])
    assert memory.following([7, 8], 5) == (2, [2])
    assert memory.following([5, 8, 2], 5) == (0, [])


def test_what_was_never_said_is_not_found() -> None:
    memory = Memory()
    assert memory.following([1, 2, 3, 4, 5], 9) == (0, [])
    memory.learn(ANSWER)
    assert memory.following([1, 2, 3], 9) == (0, [])
    assert memory.following([], 9) == (0, [])


def test_old_answers_are_forgotten() -> None:
    memory = Memory()
    memory.learn(ANSWER)
    memory.learn([5] * _TOKENS)
    assert memory.following(ANSWER[:5], 5) == (0, [])


def test_one_key_knows_nothing_of_another_and_few_are_remembered() -> None:
    memories = Memories()
    memories.of("a").learn(ANSWER)
    assert memories.of("b").following(ANSWER[:5], 5) == (0, [])
    assert memories.of("a").following(ANSWER[:5], 5) == (0, ANSWER[5:10])
    for number in range(100):
        memories.of(f"another {number}")
    assert memories.of("a").following(ANSWER[:5], 5) == (0, [])


@given(
    answers=st.lists(st.lists(st.integers(0, 3), max_size=30), max_size=12),
    text=st.lists(st.integers(0, 3), max_size=12),
    most=st.integers(0, 9),
)
def test_what_is_found_did_follow_this_run_in_one_answer(
    answers: list[list[int]], text: list[int], most: int
) -> None:
    memory = Memory()
    for answer in answers:
        memory.learn(answer)
    kind, found = memory.following(text, most)
    assert len(found) <= most
    if found:
        told = [*text[-MEMORY_RUNS[kind] :], *found]
        assert any(answer[at : at + len(told)] == told for answer in answers for at in range(len(answer) + 1))


@given(tokens=st.lists(st.integers(0, 3), max_size=60), most=st.integers(0, 9))
def test_in_a_text_the_last_place_of_the_longest_run_counts(tokens: list[int], most: int) -> None:
    runs = (3, 2, 1)
    text = Text(runs)
    text.add(tokens)
    kind, found = text.following(most)
    places = {
        length: [at for at in range(length, len(tokens)) if tokens[at - length : at] == tokens[-length:]]
        for length in runs
    }
    expected = next(((at, places[length][-1]) for at, length in enumerate(runs) if places[length]), None)
    if expected is None:
        assert (kind, found) == (0, [])
    else:
        assert (kind, found) == (expected[0], tokens[expected[1] : expected[1] + most])
