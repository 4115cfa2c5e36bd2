from typing import Any

import pytest

from outpace.engines.openvino_config import OpenVinoSettings
from outpace.engines.parameters import settings_of
from outpace.engines.registry import engine
from outpace.engines.speculation import (
    METHODS,
    require_no_speculation_settings,
    require_same_tokens,
    speculation_settings,
)
from outpace.engines.vllm import VllmSettings
from outpace.values.deployment import LaunchOrder
from outpace.values.errors import InvalidInput


def order(settings: dict[str, str | int | float | bool]) -> LaunchOrder:
    return LaunchOrder(
        replica_id="m@1",
        deployment="m",
        model="m",
        artifact_path="/weights.gguf",
        tasks=("chat",),
        context_tokens=512,
        parallel=1,
        threads=1,
        socket_dir="/tmp",
        token="",
        engine_settings=settings,
    )


@pytest.mark.parametrize("method", [*METHODS["llamacpp"], "off", "none"])
def test_llamacpp_takes_the_settings_of_every_method(method: str) -> None:
    engine("llamacpp").launch(order(speculation_settings("llamacpp", method)))


@pytest.mark.parametrize(
    ("name", "kind", "method"),
    [
        ("openvino", OpenVinoSettings, "ngram"),
        ("openvino", OpenVinoSettings, "draft:small"),
        ("vllm", VllmSettings, "ngram"),
        ("vllm", VllmSettings, "draft:small"),
    ],
)
def test_other_engines_know_the_settings_that_they_are_told(name: str, kind: Any, method: str) -> None:
    settings_of(speculation_settings(name, method, "/draft"), kind, name)


def test_a_draft_names_its_weights() -> None:
    settings = speculation_settings("llamacpp", "draft:small", "/draft.gguf")
    assert settings == {"speculation": "draft", "draft_path": "/draft.gguf"}
    engine("llamacpp").launch(order(settings))
    for name in ("llamacpp", "openvino"):
        with pytest.raises(InvalidInput, match="draft_path"):
            engine(name).launch(order({"speculation": "draft"}))
    with pytest.raises(InvalidInput, match="weights of small are not here"):
        speculation_settings("llamacpp", "draft:small")


def test_an_unknown_method_lists_what_the_engine_has() -> None:
    with pytest.raises(
        InvalidInput, match=r"not known to llamacpp; there is auto, off, ngram, .*draft:MODEL"
    ):
        speculation_settings("llamacpp", "magic")
    with pytest.raises(InvalidInput, match=r"not known to echo; there is auto, off$"):
        speculation_settings("echo", "ngram")


def test_a_draft_with_another_tokenizer_is_refused_by_name() -> None:
    require_same_tokens("small", "ab", "large", "ab")
    with pytest.raises(InvalidInput, match="small has another tokenizer than large"):
        require_same_tokens("small", "ab", "large", "cd")
    with pytest.raises(InvalidInput, match="another tokenizer"):
        require_same_tokens("small", "", "large", "")


def test_a_method_as_an_engine_setting_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"engine_settings.speculation: say `speculation`"):
        require_no_speculation_settings("llamacpp", {"speculation": "ngram_mod"})
    require_no_speculation_settings("llamacpp", {"parallel": 2})
