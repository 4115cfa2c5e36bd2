"""When a deployment may have a second variant."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.weights import smollm2_gguf  # noqa: F401  # a fixture

from outpace.catalogue.resolve import Resolved
from outpace.lab.companion import why_no_companion, why_no_room
from outpace.values.deployment import DeploymentSpec
from outpace.values.units import GIB


def spec(**fields: Any) -> DeploymentSpec:
    return DeploymentSpec(name="chat", model="smollm2-135m-instruct", **fields)


@pytest.fixture
def found(smollm2_gguf: Path) -> Resolved:  # noqa: F811
    return Resolved(
        model="smollm2-135m-instruct",
        engine="auto",
        tasks=("chat", "completions"),
        context_tokens=8192,
        owned_by="tests",
        created_s=0,
        precision="q4_1",
        artifact_path=smollm2_gguf,
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"precision": "q4_1"},
        {"kv_precision": "f16"},
        {"speculation": "ngram"},
        {"engine_settings": {"parallel": 4, "context_tokens": 512}},
    ],
)
def test_a_text_model_on_auto_may_have_two(found: Resolved, fields: dict[str, Any]) -> None:
    assert why_no_companion(spec(**fields), found) is None


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"variants": "off"}, "variants: off"),
        ({"engine": "llamacpp"}, "asks for llamacpp"),
        ({"precision": "q4_0"}, "q4_0"),
        ({"engine_settings": {"flash_attention": "on"}}, "flash_attention"),
    ],
)
def test_a_file_that_means_one_engine_has_one_variant(
    found: Resolved, fields: dict[str, Any], word: str
) -> None:
    assert word in (why_no_companion(spec(**fields), found) or "")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"engine": "echo"}, "echo only"),
        ({"tasks": ("embeddings",)}, "no text"),
        ({"artifact_path": None}, "not here yet"),
        ({"artifact_path": Path(__file__).parent}, "no GGUF"),
    ],
)
def test_a_model_that_the_second_engine_cannot_serve_has_one(
    found: Resolved, change: dict[str, Any], word: str
) -> None:
    assert word in (why_no_companion(spec(), msgspec.structs.replace(found, **change)) or "")


def test_both_must_fit() -> None:
    assert why_no_room(2 * GIB, 3 * GIB, 8 * GIB) is None
    assert "5.0 GiB" in (why_no_room(2 * GIB, 3 * GIB, 4 * GIB) or "")
