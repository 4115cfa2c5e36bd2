"""The shape of a model that is in no list: read from its Hugging Face config.json or its GGUF header."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from outpace.catalogue.gguf import GgufFacts
from outpace.catalogue.gguf import read as read_gguf
from outpace.values.architecture import Architecture
from outpace.values.errors import InvalidInput, WeightsInvalid

_MOST_CONFIG_BYTES = 1_000_000
_MOST_LAYERS = 2_000
_MOST_COUNT = 1_000_000_000
# What `quantization_config` calls the formats of checkpoints.
_QUANTIZED = {"fp8": "fp8", "mxfp4": "mxfp4", "nvfp4": "nvfp4", "awq": "int4-awq", "gptq": "int4-awq"}
_COMPRESSED: dict[tuple[object, object], str] = {
    (8, "float"): "fp8",
    (8, "int"): "int8",
    (4, "int"): "int4-awq",
    (4, "float"): "nvfp4",
}


def shape_of_file(path: Path) -> Architecture:
    """The shape that a file describes. Raises InvalidInput when it is missing, unknown or contradicts itself."""
    if path.is_dir():
        path = path / "config.json"
    if path.suffix == ".gguf":
        return _from_gguf(path)
    shape = shape_of_config(_read_config(path), path.parent.name if path.name == "config.json" else path.stem)
    shape.check()
    _check_index(shape, path.parent / "model.safetensors.index.json")
    return shape


def shape_of_config(config: Mapping[str, Any], name: str) -> Architecture:
    """The shape in a config.json's fields; nested text parts of multimodal models are found."""
    text = config.get("text_config", {})
    if not isinstance(text, Mapping):
        raise InvalidInput("text_config", f"of {name} holds no object; correct its config")
    fields = _Fields({**config, **text}, name)
    layers = fields.count("num_hidden_layers", "n_layer")
    if layers > _MOST_LAYERS:
        raise InvalidInput("num_hidden_layers", f"{layers} of {name} is more than any model has")
    hidden = fields.count("hidden_size", "n_embd")
    heads = fields.count("num_attention_heads", "n_head")
    moe_layers, dense_layers = _layer_kinds(fields, layers)
    sliding = _sliding_layers(fields, layers)
    linear = fields.listed("layer_types", "linear_attention")
    return Architecture(
        name=name,
        hidden=hidden,
        heads=heads,
        kv_heads=fields.maybe("num_key_value_heads", default=heads),
        head_dim=fields.maybe("head_dim", default=hidden // max(heads, 1)),
        vocab=fields.count("vocab_size"),
        context_tokens=fields.count("max_position_embeddings", "n_positions", "n_ctx"),
        attention_layers=layers - sliding - linear,
        sliding_layers=sliding,
        sliding_window_tokens=fields.maybe("sliding_window") if sliding else 0,
        linear_layers=linear,
        linear_layer_parameters=_linear_parameters(fields, hidden) if linear else 0,
        linear_state_values=_linear_state(fields) if linear else 0,
        dense_layers=dense_layers,
        ffn=fields.maybe("intermediate_size", "n_inner", default=4 * hidden) if dense_layers else 0,
        ffn_matrices=2 if "n_embd" in fields else 3,
        moe_layers=moe_layers,
        experts=_experts(fields),
        experts_per_token=fields.maybe("num_experts_per_tok"),
        expert_ffn=fields.maybe("moe_intermediate_size", "intermediate_size") if moe_layers else 0,
        shared_ffn=_shared_ffn(fields) if moe_layers else 0,
        attention="mla" if fields.maybe("kv_lora_rank") else "gqa",
        q_rank=fields.maybe("q_lora_rank"),
        kv_rank=fields.maybe("kv_lora_rank"),
        rope_dim=fields.maybe("qk_rope_head_dim"),
        nope_dim=fields.maybe("qk_nope_head_dim"),
        v_dim=fields.maybe("v_head_dim"),
        query_gate=bool(fields.maybe("attn_output_gate")),
        sparse_top_tokens=fields.maybe("index_topk"),
        tied_embeddings=bool(fields.maybe("tie_word_embeddings")),
        native_format=_native_format(config, name),
        source=f"config.json of {name}",
    )


def _native_format(config: Mapping[str, Any], name: str) -> str:
    """The format of a quantized checkpoint; empty for 16 bit."""
    quantized = config.get("quantization_config")
    if not quantized:
        return ""
    method = quantized.get("quant_method") if isinstance(quantized, Mapping) else None
    found = _QUANTIZED.get(method) if isinstance(method, str) else None
    if method == "modelopt":
        found = _QUANTIZED.get(str(quantized.get("quant_algo", "")).lower())
    if method == "compressed-tensors":
        found = _compressed_format(quantized)
    if found is None:
        raise InvalidInput(
            "quantization_config",
            f"{method!r} of {name} is not known; known are {', '.join(_QUANTIZED)}, modelopt and "
            "compressed-tensors; leave the field out to plan for 16 bit",
        )
    return found


def _compressed_format(quantized: Mapping[str, Any]) -> str | None:
    """The format of the first group of weights of a compressed-tensors checkpoint."""
    groups = quantized.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    if not isinstance(weights, Mapping):
        return None
    return _COMPRESSED.get((weights.get("num_bits"), weights.get("type")))


class _Fields:
    """Numbers of a config by any of their names."""

    def __init__(self, config: Mapping[str, Any], name: str) -> None:
        self._config, self._name = config, name

    def __contains__(self, key: str) -> bool:
        return key in self._config

    def count(self, *keys: str) -> int:
        """A number that must be there and positive."""
        value = self.maybe(*keys)
        if not 0 < value <= _MOST_COUNT:
            raise InvalidInput(
                keys[0], f"is missing, not positive or too large in the config of {self._name}"
            )
        return value

    def maybe(self, *keys: str, default: int = 0) -> int:
        """A number, or the default when it is absent or null."""
        for key in keys:
            value = self._config.get(key)
            if isinstance(value, (int, float)) and math.isfinite(value):
                return int(value)
        return default

    def listed(self, key: str, kind: str) -> int:
        """How many entries of a list have a value."""
        entries = self._config.get(key)
        return entries.count(kind) if isinstance(entries, list) else 0


def _experts(fields: _Fields) -> int:
    return fields.maybe("n_routed_experts", "num_local_experts", "num_experts")


def _layer_kinds(fields: _Fields, layers: int) -> tuple[int, int]:
    """Layers with experts, and layers with one feed-forward part."""
    if not _experts(fields):
        return 0, layers
    dense = min(fields.maybe("first_k_dense_replace"), layers)
    step = max(1, fields.maybe("interleave_moe_layer_step", "moe_layer_freq", default=1))
    moe = (layers - dense) // step
    return moe, layers - moe


def _sliding_layers(fields: _Fields, layers: int) -> int:
    listed = fields.listed("layer_types", "sliding_attention")
    if listed or not fields.maybe("sliding_window"):
        return listed
    # A window without a list holds for every layer, unless the model says that it is not used.
    return 0 if "use_sliding_window" in fields and not fields.maybe("use_sliding_window") else layers


def _shared_ffn(fields: _Fields) -> int:
    direct = fields.maybe("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size")
    return direct or fields.maybe("n_shared_experts") * fields.maybe("moe_intermediate_size")


def _linear_parameters(fields: _Fields, hidden: int) -> int:
    keys = fields.maybe("linear_num_key_heads") * fields.maybe("linear_key_head_dim")
    values = fields.maybe("linear_num_value_heads") * fields.maybe("linear_value_head_dim")
    return hidden * (2 * keys + 3 * values)


def _linear_state(fields: _Fields) -> int:
    heads = fields.maybe("linear_num_value_heads")
    return heads * fields.maybe("linear_key_head_dim") * fields.maybe("linear_value_head_dim")


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > _MOST_CONFIG_BYTES:
            raise InvalidInput("model_file", f"{path.name} is too large for a config.json")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise InvalidInput("model_file", f"{path} cannot be read as config.json: {problem}") from problem
    if not isinstance(config, dict):
        raise InvalidInput("model_file", f"{path.name} is not a config.json: it holds no object")
    return config


def _check_index(shape: Architecture, index: Path) -> None:
    """Hold the config against the size of the weights beside it, at any format from 4 to 32 bit."""
    if not index.exists():
        return
    total = json.loads(index.read_text(encoding="utf-8")).get("metadata", {}).get("total_size", 0)
    if total and not 0.45 < total / shape.parameters < 4.5:
        raise InvalidInput(
            "model_file",
            f"its config describes {shape.parameters:,} weights but the files beside it hold {total:,} bytes; "
            "one of them is wrong",
        )


def _from_gguf(path: Path) -> Architecture:
    try:
        facts = read_gguf(path)
    except WeightsInvalid as problem:
        raise InvalidInput("model_file", str(problem)) from problem
    shape = shape_of_gguf(facts, path.stem)
    shape.check()
    return shape


def shape_of_gguf(facts: GgufFacts, name: str) -> Architecture:
    """The shape in a GGUF header; its tensors' element count stands in for what a publisher says."""
    has_experts = facts.experts > 0
    return Architecture(
        name=facts.name or name,
        hidden=facts.hidden,
        heads=facts.heads,
        kv_heads=facts.kv_heads,
        head_dim=facts.head_dim,
        vocab=facts.vocabulary,
        context_tokens=facts.context_tokens,
        attention_layers=facts.layers,
        dense_layers=0 if has_experts else facts.layers,
        ffn=0 if has_experts else facts.ffn,
        moe_layers=facts.layers if has_experts else 0,
        experts=facts.experts,
        experts_per_token=facts.experts_per_token,
        expert_ffn=facts.ffn if has_experts else 0,
        tied_embeddings=not facts.has_output_tensor,
        published_parameters=facts.parameters,
        native_format=facts.precision or "",
        source=f"header of {path_name(name)}",
    )


def path_name(name: str) -> str:
    """A GGUF's file name from its stem."""
    return f"{name}.gguf"
