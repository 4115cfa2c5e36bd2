"""Setups as columns of numbers, so that one pass of array arithmetic predicts thousands of cases."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from outpace.planner.quantities import mixer_of
from outpace.planner.setups import Load, Quantity, Setup
from outpace.precision.formats import KvFormat, WeightFormat
from outpace.precision.memory import kv_shards, kv_values_per_token, state_bytes, weight_bytes
from outpace.values.architecture import Architecture
from outpace.values.units import GIB

Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]
# Sequences that an instance of an unlimited engine holds at most; beyond it nothing gets faster.
_MOST_SEQUENCES = 4096
# Kernels of a layer, as a multiple of those of grouped attention and its feed-forward part (10: two norms, three
# products, rotation, cache write, attention, gate and its product). Latent attention has six more (compressing,
# expanding and their norms), an indexer for sparse attention about eight besides, linear attention two.
_MIXER_KERNELS = {"mla": 1.6, "sparse": 2.4, "hybrid": 1.2}
# Kernels of experts with a shared one beside them, as a multiple of those of routed ones alone (12 and 8).
_SHARED_KERNELS = 1.5


@dataclass(frozen=True)
class Columns:
    """One array per quantity; bytes and FLOPs are of a whole stage group, rates of one device."""

    count: int
    dense_bytes: Numbers
    routed_bytes: Numbers
    expert_share: Numbers
    experts: Numbers
    flops_per_token: Numbers
    prefill_flops_per_token: Numbers
    kv_bytes_per_token: Numbers
    sliding_share: Numbers
    window_tokens: Numbers
    state_bytes: Numbers
    attention_flops: Numbers
    prefill_attention_flops: Numbers
    sparse_tokens: Numbers
    hidden: Numbers
    layers: Numbers
    moe_layers: Numbers
    stage_devices: Numbers
    tp: Numbers
    pp: Numbers
    attention_dp: Numbers
    kv_shards: Numbers
    bandwidth: Numbers
    flops: Numbers
    flops16: Numbers
    slow_flops: Numbers
    link: Numbers
    has_link: Numbers
    isl: Numbers
    osl: Numbers
    concurrency: Numbers
    rate: Numbers
    capacity: Numbers
    replicas: Numbers
    devices: Numbers
    beams: Numbers
    slo_ttft_s: Numbers
    slo_itl_s: Numbers
    chunk_share: Numbers
    run_requests: Numbers
    poll_steps: Numbers
    is_cold: Numbers
    drafted: Numbers
    gather_steps: Numbers
    mixer_kernels: Numbers
    expert_kernels: Numbers
    moved_whole: Numbers
    moved_spread: Numbers
    takes_turns: Numbers

    def pick(self, rows: NDArray[np.intp]) -> "Columns":
        """The columns of some rows."""
        arrays = (getattr(self, field.name)[rows] for field in fields(self) if field.name != "count")
        return Columns(len(rows), *arrays)


def columns(setups: Sequence[Setup]) -> Columns:
    """Columns of many setups, in order."""
    table = np.array([_row(setup) for setup in setups], dtype=np.float64).reshape(len(setups), -1)
    return Columns(len(setups), *np.ascontiguousarray(table.T))


def held_sequences(setup: Setup) -> float:
    """Sequences that run at once: what memory holds, within the engine's limit; at least one."""
    made = setup.generation
    limit = made.small_max_sequences if _is_small(setup) else made.max_sequences or _MOST_SEQUENCES
    memory = setup.mean_memory
    fitting = (
        made.cache_room_bytes(memory) // memory.kv_bytes_per_sequence if memory.kv_bytes_per_sequence else 0.0
    )
    held = min(fitting * setup.split.pp / _beams_room(setup), limit * setup.split.attention_dp)
    return float(max(1, held))


def _beams_room(setup: Setup) -> float:
    """How many sequences' room a request with beams takes: they share its prompt and grow side by side."""
    ends = setup.load in (Load.FULL, Load.OFFLINE, Load.STATIC)
    grown = setup.mean_osl if ends else setup.mean_osl / 2
    return (setup.mean_isl + setup.beams * grown) / (setup.mean_isl + grown)


def _is_small(setup: Setup) -> bool:
    return setup.generation.is_small(setup.device.name, setup.device.memory_bytes / GIB)


def _row(setup: Setup) -> tuple[float, ...]:
    split, on = setup.split, setup.device
    return (
        *_shape_row(setup.shape, setup.weights, setup.kv),
        split.stage_devices,
        split.tp,
        split.pp,
        split.attention_dp,
        kv_shards(setup.shape, split),
        on.bandwidth_bytes_per_s,
        on.multiply_flops(setup.weights.multiply if setup.weights.multiply != "gguf" else "16"),
        on.bf16_flops,
        setup.generation.slow_flops if setup.weights.name in setup.generation.slow_formats else 0.0,
        on.peer_bytes_per_s,
        float(on.link_bytes_per_s > 0),
        setup.mean_isl,
        setup.mean_osl,
        setup.concurrency,
        setup.rate_per_s,
        held_sequences(setup),
        setup.replicas,
        setup.replicas * split.devices,
        setup.beams,
        setup.slo_ttft_ms / 1e3,
        setup.slo_itl_ms / 1e3,
        setup.generation.small_chunk_share if _is_small(setup) else 1.0,
        setup.run_requests,
        setup.poll_steps,
        float(setup.is_cold),
        setup.drafted,
        setup.gather_steps,
        *_kernels_row(setup.shape),
        float(_takes_turns(setup)),
    )


def _takes_turns(setup: Setup) -> bool:
    """Whether callers stay in step: prompts are read apart, and answers as long as each other end together."""
    alone = setup.generation.reads_prompts_alone
    return alone and setup.load is Load.CLOSED and not setup.has_varied_lengths


@lru_cache(maxsize=512)
def _kernels_row(shape: Architecture) -> tuple[float, ...]:
    """Kernels of mixers and experts; values per token that kernels without products move, whole and spread."""
    if shape.attention == "mla":
        expanded = shape.heads * (shape.nope_dim + shape.rope_dim + shape.v_dim)
        mixed = 2 * (expanded + shape.q_rank + shape.kv_rank)
    else:
        mixed = 2 * (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    # Norms read and write a token and its residual twice per layer; a gate reads two parts and writes one; tokens are
    # copied to their experts and summed up again.
    routed = 3 * shape.experts_per_token * (shape.hidden + shape.expert_ffn)
    fed = shape.dense_layers * 3 * shape.ffn + shape.moe_layers * (routed + 3 * shape.shared_ffn)
    return (
        _MIXER_KERNELS.get(mixer_of(shape), 1.0),
        _SHARED_KERNELS if shape.shared_ffn else 1.0,
        8.0 * shape.layers * shape.hidden,
        float(shape.layers * mixed + fed),
    )


@lru_cache(maxsize=512)
def _shape_row(shape: Architecture, weights: WeightFormat, kv: KvFormat) -> tuple[float, ...]:
    resident = weight_bytes(shape, weights)
    values = kv_values_per_token(shape)
    per_token = shape.mixer_layers * values * kv.bits / 8
    head_flops = 2.0 * shape.vocab * shape.hidden
    flops = 2.0 * shape.active_parameters
    return (
        resident.dense + resident.head,
        resident.routed,
        shape.experts_per_token / shape.experts if shape.experts else 0.0,
        shape.experts,
        flops,
        flops - head_flops,
        per_token,
        shape.sliding_layers / shape.mixer_layers if shape.mixer_layers else 0.0,
        shape.sliding_window_tokens,
        state_bytes(shape),
        _decode_attention_flops(shape),
        4.0 * shape.mixer_layers * shape.heads * _prefill_head_dim(shape),
        shape.sparse_top_tokens,
        shape.hidden,
        shape.layers,
        shape.moe_layers,
    )


def _decode_attention_flops(shape: Architecture) -> float:
    """FLOPs per new token and token of context; latent attention works on the compressed vector."""
    if shape.attention == "mla":
        return 2.0 * shape.mixer_layers * shape.heads * (2 * shape.kv_rank + shape.rope_dim)
    return 4.0 * shape.mixer_layers * shape.heads * shape.head_dim


def _prefill_head_dim(shape: Architecture) -> float:
    if shape.attention == "mla":
        return (shape.nope_dim + shape.rope_dim + shape.v_dim) / 2
    return shape.head_dim


def load_mask(setups: Sequence[Setup], *loads: Load) -> Flags:
    """Which setups have one of the loads."""
    return np.array([setup.load in loads for setup in setups], dtype=np.bool_)


def quantity_mask(setups: Sequence[Setup], quantity: Quantity) -> Flags:
    """Which setups ask for the quantity."""
    return np.array([setup.metric.quantity is quantity for setup in setups], dtype=np.bool_)
