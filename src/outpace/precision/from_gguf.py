"""A Llama GGUF as a BF16 checkpoint folder, for engines that read Hugging Face's layout."""

from pathlib import Path
from typing import Any

import ml_dtypes
import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from outpace.precision.gguf_maker import keys_of, read_tensors
from outpace.values.errors import InvalidInput

_ROLES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_OUTSIDE = {
    "token_embd": "model.embed_tokens.weight",
    "output_norm": "model.norm.weight",
    "output": "lm_head.weight",
}


def make_checkpoint(source: Path, target: Path) -> None:
    """Write config.json and model.safetensors (BF16) of a Llama GGUF to the folder `target`; no tokenizer.

    Raises InvalidInput for another architecture, WeightsInvalid for a file that is not sound.
    """
    keys = keys_of(source)
    if keys.get("general.architecture") != "llama":
        raise InvalidInput("model", f"only Llama is converted, this is {keys.get('general.architecture')}")
    tensors: dict[str, NDArray[Any]] = {}
    for name, _, values in read_tensors(source):
        role = name.removesuffix(".weight").rpartition(".")[2]
        if role in ("attn_q", "attn_k"):
            heads = int(keys[f"llama.attention.head_count{'_kv' if role == 'attn_k' else ''}"])
            values = _unpermuted(values, heads)
        tensors[_name_of(name)] = np.ascontiguousarray(values.astype(ml_dtypes.bfloat16))
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_bytes(msgspec.json.encode(_config(keys, "lm_head.weight" not in tensors)))


def _name_of(name: str) -> str:
    bare = name.removesuffix(".weight")
    if bare in _OUTSIDE:
        return _OUTSIDE[bare]
    block, layer, role = (*bare.split(".", 2), "", "")[:3]
    if block != "blk" or role not in _ROLES:
        raise InvalidInput("model", f"tensor {name[:60]!r} has no place in a Llama checkpoint")
    return f"model.layers.{layer}.{_ROLES[role]}.weight"


def _unpermuted(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """llama.cpp interleaves the two halves of each head for its rotation; Hugging Face keeps them apart."""
    rows, columns = values.shape
    pairs = values.reshape(heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows, columns))


def _config(keys: dict[str, Any], is_tied: bool) -> dict[str, Any]:
    heads = int(keys["llama.attention.head_count"])
    hidden = int(keys["llama.embedding_length"])
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": int(keys["llama.feed_forward_length"]),
        "num_hidden_layers": int(keys["llama.block_count"]),
        "num_attention_heads": heads,
        "num_key_value_heads": int(keys["llama.attention.head_count_kv"]),
        "head_dim": int(keys.get("llama.rope.dimension_count", hidden // heads)),
        "vocab_size": len(keys["tokenizer.ggml.tokens"]),
        "max_position_embeddings": int(keys["llama.context_length"]),
        "rms_norm_eps": float(keys["llama.attention.layer_norm_rms_epsilon"]),
        "rope_theta": float(keys.get("llama.rope.freq_base", 10_000.0)),
        "hidden_act": "silu",
        "tie_word_embeddings": is_tied,
        "bos_token_id": keys.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": keys.get("tokenizer.ggml.eos_token_id"),
        "torch_dtype": "bfloat16",
    }
