"""How many tokens are guessed behind a prompt."""

from hypothesis import given
from hypothesis import strategies as st

from outpace.engines.openvino_config import guessed_tokens


@given(most=st.integers(1, 32), shorter=st.integers(0, 4096), longer=st.integers(0, 4096))
def test_longer_prompts_are_never_guessed_at_less(most: int, shorter: int, longer: int) -> None:
    few, many = sorted((shorter, longer))
    assert 0 <= guessed_tokens(most, few) <= guessed_tokens(most, many) <= most


def test_behind_a_short_question_nothing_is_guessed() -> None:
    assert (guessed_tokens(6, 40), guessed_tokens(6, 100), guessed_tokens(6, 250)) == (0, 3, 6)
