"""Versions as measurements write them."""

import pytest

from outpace.planner.engines import asked_version, dated_build, generation, version_name
from outpace.values.errors import InvalidInput


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


@pytest.mark.parametrize(
    ("written", "named"),
    [
        ("v0.11.0", "0.11.0"),
        (" 1.2.0RC5 ", "1.2.0rc5"),
        ("0.9.0.2.dev108+g71faa1880.d20250730", "0.9.0.2.dev108+g71faa1880.d20250730"),
        ("latest", "latest"),
        ("nightly-5b8c30d62b754b57", "nightly-5b8c30d62b754b57"),
        ("unknown", ""),
        ("", ""),
    ],
)
def test_a_version_may_be_asked_for_or_left_open(written: str, named: str) -> None:
    assert asked_version(written) == named


@pytest.mark.parametrize("written", ["vLLM", "vLLM 0.11", "-1", "0,11", "1..2", "newer", "1" * 61])
def test_what_is_no_version_is_refused_by_name(written: str) -> None:
    with pytest.raises(InvalidInput, match=r"engine-version: .* is not a version"):
        asked_version(written)


@pytest.mark.parametrize(
    ("version", "notes", "named"),
    [
        ("nightly-dev", "image=lmsysorg/sglang:nightly-dev-cu13-20260317-1eea7448", "nightly 20260317"),
        ("nightly-dev-20260317-1eea7448", "", "nightly 20260317"),
        ("nightly-dev", "", "nightly-dev"),
        ("nightly-5b8c30d62b754b57", "image=vllm/vllm-openai:nightly-5b8c30d6", "nightly-5b8c30d62b754b57"),
        ("0.5.9", "image=lmsysorg/sglang:v0.5.9-cu130", "0.5.9"),
    ],
)
def test_nightly_builds_are_told_apart_by_their_day(version: str, notes: str, named: str) -> None:
    assert dated_build(version, notes) == named


@pytest.mark.parametrize(
    ("version", "notes", "name"),
    [
        ("0.10.2", "", "vllm-v1"),
        ("0.10.2", "flags: --async-scheduling", "vllm-v1-async"),
        ("0.7.3", "flags: --async-scheduling", "vllm-v0"),
        ("0.14.0", "", "vllm-v1-async"),
    ],
)
def test_a_flag_may_make_a_version_work_like_the_next(version: str, notes: str, name: str) -> None:
    assert generation("vLLM", version, notes=notes).name == name
