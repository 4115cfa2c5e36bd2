"""Which files OpenVINO is not even tried with."""

import pytest

from outpace.engines.openvino_gguf import why_unreadable


@pytest.mark.parametrize(
    ("architecture", "types", "word"),
    [
        ("llama", ["f32", "q4_1", "q8_0"], None),
        ("qwen3", ["f32", "q4_k", "q6_k"], None),
        ("gemma3", ["f32", "q4_0"], "gemma3"),
        ("llama", ["f32", "q5_0", "iq4_nl"], "iq4_nl, q5_0"),
    ],
)
def test_what_its_reader_does_not_know_is_named(
    architecture: str, types: list[str], word: str | None
) -> None:
    reason = why_unreadable(architecture, types)
    assert reason is None if word is None else reason is not None and word in reason
