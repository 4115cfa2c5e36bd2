"""A dense Llama in numpy, layer by layer: what flows into each of its matrices on given texts.

RMS norm, rotary positions on neighbouring pairs, grouped attention, SwiGLU: the architecture `llama` of GGUF files.
Only for looking at a model while it is rounded; serving is an engine's work.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
from numpy.typing import NDArray

from outpace.precision import ggml

Floats = NDArray[np.float32]
# Role such as "ffn_up", the rows that flow into it, its numbers: what the layer goes on with instead.
Replace = Callable[[str, Floats, Floats], Floats]
_ARCHITECTURE = "llama"
# About three minutes of two processors for some ten thousand tokens.
MOST_PARAMETERS = 1_500_000_000
_ROLES = frozenset(
    ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
)
_OUTSIDE = frozenset(("token_embd", "output_norm", "output"))
_MASKED = np.float32(-1e9)


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What a file says of its layers."""

    layers: int
    heads: int
    kv_heads: int
    head_size: int
    epsilon: float
    rope_base: float


class Texts:
    """Token sequences laid end to end, each with its own positions."""

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        self.tokens = np.concatenate([np.asarray(one, dtype=np.int64) for one in sequences])
        self.positions = np.concatenate([np.arange(len(one)) for one in sequences])
        ends = np.cumsum([len(one) for one in sequences])
        self.spans = [slice(int(end) - len(one), int(end)) for end, one in zip(ends, sequences, strict=True)]


class DenseModel:
    """A GGUF of architecture `llama`; its matrices are read when their layer's turn comes. ValueError for another."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self._tensors = {str(tensor.name).removesuffix(".weight"): tensor for tensor in reader.tensors}
        keys = {name: field.contents() for name, field in reader.fields.items() if "token" not in name}
        reason = unfit(keys, list(self._tensors))
        if reason is not None:
            raise ValueError(reason)
        self.shape = _shape(keys)

    def run(self, texts: Texts, replace: Callable[[int, str, Floats, Floats], Floats]) -> Iterator[int]:
        """Run the texts through; yields the number of each layer that is done.

        `replace` is asked for every matrix of a layer, in the order in which data reaches them.
        """
        hidden = self._numbers("token_embd")[texts.tokens]
        for layer in range(self.shape.layers):

            def replaced(role: str, rows: Floats, weights: Floats, layer: int = layer) -> Floats:
                return replace(layer, role, rows, weights)

            hidden = self._layer(layer, hidden, texts, replaced)
            yield layer

    def _layer(self, layer: int, hidden: Floats, texts: Texts, replace: Replace) -> Floats:
        def part(role: str) -> Floats:
            return self._numbers(f"blk.{layer}.{role}")

        def product(rows: Floats, role: str) -> Floats:
            return rows @ replace(role, rows, part(role)).T

        shape = self.shape
        rows = _normed(hidden, part("attn_norm"), shape.epsilon)
        query = _turned(_heads(product(rows, "attn_q"), shape), texts.positions, shape.rope_base)
        key = _turned(_heads(product(rows, "attn_k"), shape), texts.positions, shape.rope_base)
        value = _heads(product(rows, "attn_v"), shape)
        hidden = hidden + product(_attended(query, key, value, texts), "attn_output")
        rows = _normed(hidden, part("ffn_norm"), shape.epsilon)
        gate = product(rows, "ffn_gate")
        middle = gate / (1 + np.exp(-gate)) * product(rows, "ffn_up")
        return hidden + product(middle, "ffn_down")

    def _numbers(self, name: str) -> Floats:
        tensor = self._tensors[name]
        return ggml.dequantize(tensor.data, tensor.tensor_type)


def unfit(keys: dict[str, Any], tensors: Sequence[str]) -> str | None:
    """Why this file's model cannot be run here; None when it can."""
    architecture = keys.get("general.architecture")
    if architecture != _ARCHITECTURE:
        return f"its architecture is {architecture}"
    unknown = sorted(name for name in map(_role, tensors) if name not in _ROLES | _OUTSIDE)
    if unknown:
        return f"it has tensors {', '.join(dict.fromkeys(unknown[:3]))}"
    if any(name.startswith(f"{_ARCHITECTURE}.rope.scaling") for name in keys):
        return "its positions are scaled"
    shape = _shape(keys)
    turned = keys.get(f"{_ARCHITECTURE}.rope.dimension_count", shape.head_size)
    return None if turned == shape.head_size else "its heads are turned in part only"


def _role(tensor: str) -> str:
    parts = tensor.removesuffix(".weight").split(".", 2)
    return parts[2] if len(parts) == 3 and parts[0] == "blk" else tensor.removesuffix(".weight")


def _shape(keys: dict[str, Any]) -> Shape:
    def key(name: str, default: Any = None) -> Any:
        return keys.get(f"{_ARCHITECTURE}.{name}", default)

    heads = int(key("attention.head_count"))
    return Shape(
        layers=int(key("block_count")),
        heads=heads,
        kv_heads=int(key("attention.head_count_kv", heads)),
        head_size=int(key("attention.key_length", int(key("embedding_length")) // heads)),
        epsilon=float(key("attention.layer_norm_rms_epsilon")),
        rope_base=float(key("rope.freq_base", 10_000.0)),
    )


def _normed(rows: Floats, weights: Floats, epsilon: float) -> Floats:
    scale = 1 / np.sqrt((rows * rows).mean(axis=-1, keepdims=True) + np.float32(epsilon))
    return np.asarray(rows * scale * weights, dtype=np.float32)


def _heads(rows: Floats, shape: Shape) -> Floats:
    return rows.reshape(len(rows), -1, shape.head_size)


def _turned(rows: Floats, positions: NDArray[np.int64], base: float) -> Floats:
    """Rotary positions (Su et al. 2021, arXiv 2104.09864) on pairs of neighbours, as GGUF's `llama` has them."""
    size = rows.shape[-1]
    angles = positions[:, None] * base ** (-np.arange(0, size, 2) / size)
    cosine, sine = (part(angles).astype(np.float32)[:, None] for part in (np.cos, np.sin))
    even, odd = rows[..., 0::2], rows[..., 1::2]
    turned = np.empty_like(rows)
    turned[..., 0::2] = even * cosine - odd * sine
    turned[..., 1::2] = even * sine + odd * cosine
    return turned


def _attended(query: Floats, key: Floats, value: Floats, texts: Texts) -> Floats:
    """Causal attention within each text, all heads side by side."""
    heads, size = query.shape[1:]
    shared = heads // key.shape[1]
    out = np.empty_like(query)
    for span in texts.spans:
        length = span.stop - span.start
        mask = np.triu(np.full((length, length), _MASKED), 1)
        for head in range(heads):
            scores = query[span, head] @ key[span, head // shared].T / np.float32(np.sqrt(size)) + mask
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            out[span, head] = weights / weights.sum(axis=-1, keepdims=True) @ value[span, head // shared]
    return out.reshape(len(out), heads * size)
