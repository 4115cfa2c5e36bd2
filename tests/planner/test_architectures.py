"""Model shapes: names, published sizes, and shapes read from files."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from outpace.planner.architectures import architecture, architectures, named_model
from outpace.planner.model_files import shape_of_config, shape_of_file
from outpace.values.architecture import Architecture
from outpace.values.errors import InvalidInput

LLAMA: dict[str, Any] = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "intermediate_size": 14336,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize("shape", architectures(), ids=lambda shape: shape.name)
def test_parts_add_up_to_what_the_publisher_says(shape: Architecture) -> None:
    assert shape.parameters == pytest.approx(shape.published_parameters, rel=0.03)
    assert shape.source
    assert shape.checked_on


@pytest.mark.parametrize(
    ("written", "name", "implied"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b", ""),
        ("nvidia/Llama-3.1-8B-Instruct-FP8", "llama-3.1-8b", "fp8"),
        ("Qwen3-235B-A22B-Instruct-2507-FP8", "qwen3-235b-a22b", "fp8"),
        ("Qwen3-14B-AWQ", "qwen3-14b", "int4-awq"),
        ("nvidia/DeepSeek-V3.1-NVFP4", "deepseek-v3", "nvfp4"),
        ("openai/gpt-oss-120b", "gpt-oss-120b", "mxfp4"),
        ("Meta-Llama-3-70B-Instruct", "llama-3-70b", ""),
        ("deepseek-r1", "deepseek-v3", "fp8"),
    ],
)
def test_names_are_found_under_any_spelling(written: str, name: str, implied: str) -> None:
    found = named_model(written)
    assert (found.shape.name, found.implied_format) == (name, implied)


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(InvalidInput, match="qwen3-32b"):
        architecture("Qwen3-33B")


def test_a_config_file_gives_the_same_shape_as_the_list(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    shape = shape_of_file(tmp_path)
    assert shape.parameters == architecture("Llama-3.1-8B").parameters
    assert shape.kv_heads == 8


def test_experts_latent_attention_and_sliding_layers_are_read() -> None:
    deepseek = shape_of_config(
        {
            **LLAMA,
            "n_routed_experts": 256,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 2048,
            "n_shared_experts": 1,
            "first_k_dense_replace": 3,
            "kv_lora_rank": 512,
            "qk_rope_head_dim": 64,
        },
        "d",
    )
    assert (deepseek.moe_layers, deepseek.dense_layers, deepseek.shared_ffn) == (29, 3, 2048)
    assert deepseek.attention == "mla"
    layered = {**LLAMA, "sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"] * 16}
    assert shape_of_config({"text_config": layered}, "s").sliding_layers == 16


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": 0}, "hidden_size"),
        ({"num_key_value_heads": 5}, "does not divide"),
        ({"vocab_size": None}, "vocab_size"),
        ({"num_local_experts": 8, "num_experts_per_tok": 9}, "experts_per_token"),
        ({"hidden_size": float("nan")}, "hidden_size"),
        ({"hidden_size": 1e300}, "too large"),
        ({"num_hidden_layers": 100_000_000}, "more than any model"),
        ({"text_config": 3}, "text_config"),
        ({"quantization_config": {"quant_method": "secret"}}, "quantization_config"),
        ({"quantization_config": 7}, "quantization_config"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**LLAMA, **change}))
    with pytest.raises(InvalidInput, match=words):
        shape_of_file(path)


@pytest.mark.parametrize(
    ("quantized", "name"),
    [
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "gptq", "bits": 4}, "int4-awq"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}},
            },
            "fp8",
        ),
    ],
)
def test_a_quantized_checkpoint_says_its_format(tmp_path: Path, quantized: dict[str, Any], name: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**LLAMA, "quantization_config": quantized}))
    assert shape_of_file(path).native_format == name


def test_a_config_that_lies_about_the_weights_beside_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "num_hidden_layers": 8}))
    index = {"metadata": {"total_size": 16_060_522_496}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InvalidInput, match="one of them is wrong"):
        shape_of_file(tmp_path)


def test_a_size_that_the_parts_contradict_is_refused() -> None:
    wrong = msgspec.structs.replace(architecture("Llama-3.1-8B"), published_parameters=70_000_000_000)
    with pytest.raises(InvalidInput, match="one of them is wrong"):
        wrong.check()


@pytest.mark.parametrize("content", ["", "[]", "not json"])
def test_what_is_no_config_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(InvalidInput):
        shape_of_file(path)
