"""Setups as columns of numbers, so that one pass of array arithmetic predicts thousands of cases."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from outpace.planner.setups import Load, Quantity, Setup
from outpace.precision.formats import KvFormat, WeightFormat
from outpace.precision.memory import kv_shards, kv_values_per_token, state_bytes, weight_bytes
from outpace.values.architecture import Architecture
from outpace.values.units import GIB

Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]
# Sequences that an instance of an unlimited engine holds at most; beyond it nothing gets faster.
_MOST_SEQUENCES = 4096


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
    held = min(fitting * setup.split.pp / setup.beams, limit * setup.split.attention_dp)
    return float(max(1, held))


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
