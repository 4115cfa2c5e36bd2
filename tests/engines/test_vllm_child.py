"""The reason of a vLLM that does not start, in one line."""

import pytest

from outpace.engines.vllm_child import said

_HEADS = "Total number of attention heads (9) must be divisible by tensor parallel size (2)."


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            f"1 validation error for VllmConfig\n  Value error, {_HEADS} [type=value_error, input_value=1]\n"
            "    For further information visit https://errors.pydantic.dev/",
            _HEADS,
        ),
        ("no such model\nand more", "no such model"),
        ("", "ValueError"),
    ],
)
def test_the_reason_is_one_line(words: str, reason: str) -> None:
    assert said(ValueError(words)) == reason
