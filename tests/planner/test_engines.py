"""Versions as measurements write them."""

import pytest

from outpace.planner.engines import version_name


@pytest.mark.parametrize(
    ("engine", "version", "named"),
    [
        ("vLLM", "0.11.0", "0.11.0"),
        ("vLLM", " V0.11.0 ", "0.11.0"),
        ("vLLM 0.10.0", "", "0.10.0"),
        ("vLLM v0.10.0", "unknown", "0.10.0"),
        ("vLLM 0.10.0", "0.11.0", "0.11.0"),
        ("TensorRT 10.11", "", "10.11"),
        ("vLLM", "latest", "latest"),
        ("vLLM", "vNext", "vnext"),
        ("vLLM", "", ""),
        ("vLLM", "N/A", ""),
        ("vllm-0.10.0", "", "0.10.0"),
        ("vllm-v1", "", ""),
        ("vllm-v1-async", "", ""),
        ("", "", ""),
    ],
)
def test_a_version_has_one_spelling(engine: str, version: str, named: str) -> None:
    assert version_name(engine, version) == named
