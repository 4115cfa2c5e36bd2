"""Checkpoint folders: facts of a sound one, and refusals of those that lie."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outpace.catalogue.folders import read_folder
from outpace.catalogue.resolve import resolve
from outpace.catalogue.store import ArtifactStore
from outpace.values.errors import InvalidInput, OutpaceError, WeightsInvalid

_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "max_position_embeddings": 2048,
    "vocab_size": 1000,
    "torch_dtype": "bfloat16",
}
_TOKENS = {
    "added_tokens": [{"id": 1, "content": "<|im_end|>", "special": True}, {"id": 2, "content": "word"}]
}


def folder_at(path: Path, config: Any = None, tokens: Any = None, template: str = "{{ tools }}") -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(_CONFIG if config is None else config))
    (path / "tokenizer.json").write_text(json.dumps(_TOKENS if tokens is None else tokens))
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    (path / "model.safetensors").write_bytes(b"")
    return path


def test_a_sound_folder_is_served_by_vllm_with_its_facts(tmp_path: Path) -> None:
    found = resolve(str(folder_at(tmp_path / "my model")), "auto", ArtifactStore(tmp_path / "store"))
    assert (found.model, found.engine, found.precision) == ("my-model", "vllm", "bfloat16")
    assert (found.context_tokens, found.vocabulary) == (2048, 1000)
    assert found.control_texts == ("<|im_end|>",)
    assert found.tasks == ("chat", "completions")
    assert found.has_tools


def test_facts_of_the_text_part_of_a_larger_model_count(tmp_path: Path) -> None:
    config = {"architectures": ["X"], "text_config": {"max_position_embeddings": 9, "vocab_size": 7}}
    facts = read_folder(folder_at(tmp_path / "m", config))
    assert (facts.context_tokens, facts.vocabulary) == (9, 7)


def test_another_precision_than_the_folders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="outpace quantize"):
        resolve(str(folder_at(tmp_path / "m")), "fp8", ArtifactStore(tmp_path / "store"))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"architectures": []}, "architecture"),
        ({"max_position_embeddings": -1}, "max_position_embeddings"),
        ({"max_position_embeddings": True}, "max_position_embeddings"),
        ({"vocab_size": "many"}, "vocab_size"),
    ],
)
def test_a_config_that_lies_is_refused_by_its_key(tmp_path: Path, changed: dict[str, Any], says: str) -> None:
    with pytest.raises(WeightsInvalid, match=says):
        read_folder(folder_at(tmp_path / "m", {**_CONFIG, **changed}))


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    folder = folder_at(tmp_path / "m")
    (folder / missing).unlink()
    with pytest.raises(WeightsInvalid, match=missing.partition(".")[2]):
        read_folder(folder)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.sampled_from(["config.json", "tokenizer.json", "tokenizer_config.json"]))
def test_no_bytes_break_the_reader(tmp_path: Path, junk: bytes, name: str) -> None:
    folder = folder_at(tmp_path / "m")
    (folder / name).write_bytes(junk)
    with contextlib.suppress(OutpaceError):
        read_folder(folder)
