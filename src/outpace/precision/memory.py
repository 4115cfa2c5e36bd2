"""The memory arithmetic of Outpace, the only one: weights, KV cache, activations, reserve, what fits."""

from dataclasses import dataclass

from outpace.precision.formats import KvFormat, WeightFormat
from outpace.values.architecture import Architecture
from outpace.values.units import GB

# CUDA context, library workspaces and graphs; about what vLLM and TensorRT-LLM keep on an empty device.
ENGINE_RESERVE_BYTES = int(1.5 * GB)
# Engines leave a share of the device unused against fragmentation: vLLM takes 0.9 of all, TensorRT-LLM 0.9
# of what is free after loading; 0.95 of all lies between them for models that fill the device.
USABLE_SHARE = 0.95
# Buffers of a forward pass alive at once, in units of hidden width (residual, norm, projections).
LIVE_BUFFERS = 4


@dataclass(frozen=True)
class WeightBytes:
    """Bytes of the parts of a model: `dense` and `routed` are read by steps, `table` only looked up."""

    dense: float
    routed: float
    head: float
    table: float

    @property
    def total(self) -> float:
        """All bytes that must be resident."""
        return self.dense + self.routed + self.head + self.table


@dataclass(frozen=True)
class Split:
    """How one instance is spread: `attention_dp` groups of `tp` devices share the experts; `pp` stages follow."""

    tp: int = 1
    pp: int = 1
    attention_dp: int = 1

    @property
    def devices(self) -> int:
        """Devices of one instance."""
        return self.tp * self.pp * self.attention_dp

    @property
    def stage_devices(self) -> int:
        """Devices that hold one pipeline stage together."""
        return self.tp * self.attention_dp


@dataclass(frozen=True)
class MemoryUse:
    """Bytes on the fullest device, and how many sequences of the asked length fit at once."""

    capacity_bytes: float
    weights_bytes: float
    activations_bytes: float
    reserve_bytes: float
    kv_bytes_per_sequence: float
    max_sequences: int

    @property
    def kv_room_bytes(self) -> float:
        """What is left for the KV cache; negative when the weights alone do not fit."""
        used = self.weights_bytes + self.activations_bytes + self.reserve_bytes
        return self.capacity_bytes * USABLE_SHARE - used

    @property
    def fits(self) -> bool:
        """Whether at least one sequence can run."""
        return self.max_sequences >= 1


def weight_bytes(model: Architecture, stored: WeightFormat) -> WeightBytes:
    """Bytes of all weights at a format, with the parts that the format leaves at higher precision."""
    quantized, rest = stored.bits / 8, stored.rest_bits / 8
    dense = rest if stored.scope == "experts" else quantized
    attention = rest if stored.scope == "feed-forward" else dense
    table = quantized if stored.scope == "all" else rest
    vocabulary = model.vocab * model.hidden
    # gpt-oss and Kimi keep attention and shared experts at 16 bit when only routed experts are quantized.
    return WeightBytes(
        dense=model.mixer_parameters * attention + (model.dense_parameters - model.mixer_parameters) * dense,
        routed=model.routed_parameters * quantized,
        head=vocabulary * table,
        table=0.0 if model.tied_embeddings else vocabulary * table,
    )


def kv_values_per_token(model: Architecture) -> int:
    """Numbers kept per token in one attention layer.

    Grouped-query attention keeps a key and a value per KV head; latent attention keeps one compressed
    vector and the rotary part (DeepSeek-V2, arXiv 2405.04434, section 2.1.3).
    """
    if model.attention == "mla":
        return model.kv_rank + model.rope_dim
    return 2 * model.kv_heads * model.head_dim


def kv_bytes_per_token(model: Architecture, stored: KvFormat) -> float:
    """Bytes of one more token kept in every layer: 2 x layers x KV heads x head size x bytes."""
    return model.mixer_layers * kv_values_per_token(model) * stored.bits / 8


def kv_bytes_per_sequence(model: Architecture, tokens: int, stored: KvFormat) -> float:
    """Bytes of one sequence: sliding layers stop growing, linear layers keep a fixed 16-bit state."""
    per_layer = kv_values_per_token(model) * stored.bits / 8
    window = min(tokens, model.sliding_window_tokens) if model.sliding_layers else 0
    growing = model.attention_layers * tokens * per_layer
    return growing + model.sliding_layers * window * per_layer + state_bytes(model)


def state_bytes(model: Architecture) -> float:
    """Fixed bytes per sequence of linear-attention or Mamba layers at 16 bit."""
    return model.linear_layers * model.linear_state_values * 2.0


def kv_shards(model: Architecture, split: Split) -> int:
    """Over how many devices of a stage the cache is divided; the others hold copies.

    Latent attention has a single shared vector, so tensor parallelism only copies it; every group of
    attention data parallelism keeps its own sequences.
    """
    within_group = 1 if model.attention == "mla" else min(split.tp, model.kv_heads)
    return within_group * split.attention_dp


def activation_bytes(model: Architecture, step_tokens: int, split: Split) -> float:
    """Peak bytes of a forward pass: hidden buffers, the widest feed-forward part, logits."""
    widest = max(model.ffn, model.experts_per_token * model.expert_ffn + model.shared_ffn)
    per_token = LIVE_BUFFERS * model.hidden + 2 * widest / split.tp
    logits = min(step_tokens, 1024) * model.vocab / split.tp * 4
    return step_tokens * per_token * 2 + logits


def memory_use(
    model: Architecture,
    weights: WeightFormat,
    kv: KvFormat,
    split: Split,
    capacity_bytes: float,
    sequence_tokens: int,
    step_tokens: int = 4096,
) -> MemoryUse:
    """What one device of the split holds, and how many sequences of `sequence_tokens` run at once."""
    resident = weight_bytes(model, weights)
    per_sequence = kv_bytes_per_sequence(model, sequence_tokens, kv) / kv_shards(model, split) / split.pp
    use = MemoryUse(
        capacity_bytes=capacity_bytes,
        weights_bytes=_weights_per_device(resident, split),
        activations_bytes=activation_bytes(model, step_tokens, split),
        reserve_bytes=ENGINE_RESERVE_BYTES,
        kv_bytes_per_sequence=per_sequence,
        max_sequences=0,
    )
    sequences = int(max(0.0, use.kv_room_bytes) // per_sequence) if per_sequence else 0
    return MemoryUse(**{**use.__dict__, "max_sequences": sequences})


def _weights_per_device(resident: WeightBytes, split: Split) -> float:
    shared = (resident.dense / split.pp + resident.head + resident.table) / split.tp
    return shared + resident.routed / split.stage_devices / split.pp
