"""The step-time model: what one decode step and one prefill cost, from bytes, FLOPs and links.

Each term is a roofline against an achieved rate; only the achieved shares and fixed costs are fitted:
weights and KV cache against bandwidth, products against the dense peak of their arithmetic unit, all-reduces
against the link (latency and volume, 2 (n-1)/n of the message for a ring), kernels per layer, the host per step and,
for prompts, per layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from outpace.planner.columns import Columns, Numbers

# Fitted quantities by name; each is one number per setup (a global value times its groups' offsets).
Rates = Mapping[str, Numbers]
_ACTIVATION_BYTES = 2.0
_REDUCES_PER_LAYER = 2.0
# Rows of a product's tile: without a kernel for few rows, fewer cost as much.
_TILE_TOKENS = 128.0
# Tokens go to their experts at 8 bit and come back at 16.
_DISPATCH_BYTES = 3.0


@dataclass(frozen=True)
class Prefill:
    """Seconds of a prefill: what grows with its tokens, and what a pass costs anyhow."""

    work_s: Numbers
    fixed_s: Numbers


def decode_step_s(
    at: Columns, rates: Rates, batch: Numbers, context: Numbers, per_sequence: Numbers | float = 1.0
) -> Numbers:
    """Seconds in which each of `batch` sequences of `context` tokens passes `per_sequence` tokens (one, or a draft).

    With pipeline stages the batch is cut into one part per stage and all parts advance in that time.
    """
    part = np.maximum(batch / at.pp, 1.0)
    tokens = part * per_sequence
    on_device = (
        _products_s(at, rates, tokens, rates["decode_flops"])
        + _attention_s(at, rates, part, context, per_sequence)
        + _exchange_s(at, rates, tokens)
        + _moved_s(at, rates, tokens)
        + _kernels_s(at, rates)
    )
    on_host = rates["host"] + rates["sequence"] * part / at.attention_dp
    return _overlapped_s(on_device, on_host, rates["overlap"])


def _overlapped_s(device_s: Numbers, host_s: Numbers, overlap: Numbers) -> Numbers:
    """Device and host by turns (overlap 0: the sum) to side by side (large: the longer one)."""
    power, longer = 1.0 + overlap, np.maximum(device_s, host_s)
    return longer * ((device_s / longer) ** power + (host_s / longer) ** power) ** (1 / power)


def prefill_s(at: Columns, rates: Rates, tokens: Numbers) -> Prefill:
    """Seconds to read a prompt of `tokens` alone; stages follow one another.

    A decode step replays a recorded graph of kernels; a prompt's are mostly launched one by one, which costs per layer.
    """
    group = tokens / at.attention_dp
    flops = at.prefill_flops_per_token * tokens
    products = flops / (at.stage_devices * _reached_flops(at, rates["prefill_flops"]))
    # Attention runs at 16 bit; causal masking halves the square.
    attended = np.where(at.sparse_tokens > 0, np.minimum(tokens, 2 * at.sparse_tokens), tokens)
    attended = (1 - at.sliding_share) * attended + at.sliding_share * np.minimum(2 * at.window_tokens, tokens)
    attention = at.prefill_attention_flops * tokens * attended / 2
    attention_s = attention / (at.stage_devices * at.flops16 * rates["prefill_attention"])
    launched = at.layers * rates["eager"] + _kernels_s(at, rates) + rates["host"]
    fixed = weights_read_s(at, rates, group) + launched + _latency_s(at, rates)
    beside = _volume_s(at, rates, tokens) + _moved_s(at, rates, tokens)
    return Prefill(products + attention_s + beside, fixed)


def weights_read_s(at: Columns, rates: Rates, batch: Numbers) -> Numbers:
    """Seconds to read the weights that `batch` tokens touch; experts are covered by chance.

    A token leaves an expert untouched with probability 1 - k/E; routing is less even than chance, which
    the fitted exponent expresses.
    """
    tokens = batch * at.attention_dp
    covered = 1.0 - (1.0 - at.expert_share) ** np.maximum(tokens, 1.0) ** rates["routing"]
    rate = at.bandwidth * rates["weights"]
    return at.dense_bytes / (at.tp * rate) + covered * at.routed_bytes / (at.stage_devices * rate)


def _products_s(at: Columns, rates: Rates, batch: Numbers, share: Numbers) -> Numbers:
    """Matrix products: the slower of reading weights and multiplying, with a soft corner."""
    read = weights_read_s(at, rates, batch / at.attention_dp)
    rows = np.where(at.slow_flops > 0, np.maximum(batch, _TILE_TOKENS), batch)
    multiply = at.flops_per_token * rows / (at.stage_devices * _reached_flops(at, share))
    corner = rates["corner"]
    larger = np.maximum(read, multiply)
    return larger * ((read / larger) ** corner + (multiply / larger) ** corner) ** (1 / corner)


def _reached_flops(at: Columns, share: Numbers) -> Numbers:
    """FLOP/s of a device: a share of its peak, or what products without a kernel of their own reach."""
    return np.where(at.slow_flops > 0, at.slow_flops, at.flops * share)


def _attention_s(
    at: Columns, rates: Rates, batch: Numbers, context: Numbers, per_sequence: Numbers | float
) -> Numbers:
    """A sequence's cache is read once for all tokens that it passes in a step."""
    seen = np.where(at.sparse_tokens > 0, np.minimum(context, at.sparse_tokens), context)
    kept = (1 - at.sliding_share) * seen + at.sliding_share * np.minimum(at.window_tokens, context)
    read = (
        batch
        * (kept * at.kv_bytes_per_token + at.state_bytes)
        / (at.kv_shards * at.bandwidth * rates["cache"])
    )
    passed = batch * per_sequence
    flops = passed * kept * at.attention_flops / (at.stage_devices * at.flops16 * rates["decode_attention"])
    return np.maximum(read, flops)


def _exchange_s(at: Columns, rates: Rates, batch: Numbers) -> Numbers:
    return _latency_s(at, rates) + _volume_s(at, rates, batch)


def _latency_s(at: Columns, rates: Rates) -> Numbers:
    hop = np.where(at.has_link > 0, rates["link_latency"], rates["pcie_latency"])
    reduces = _REDUCES_PER_LAYER * at.layers * np.log2(np.maximum(at.stage_devices, 1.0))
    return reduces * hop + (at.pp - 1) * hop


def _volume_s(at: Columns, rates: Rates, tokens: Numbers) -> Numbers:
    """Bytes over each device's link: ring all-reduces of the hidden vectors within tensor-parallel groups.

    Groups of attention data parallelism reduce after attention only and send every token to its experts' devices
    and back.
    """
    local = tokens / at.attention_dp * at.hidden
    has_groups = at.attention_dp > 1
    reduces = np.where(has_groups, 1.0, _REDUCES_PER_LAYER) * at.layers
    ring = reduces * local * _ACTIVATION_BYTES * 2 * (at.tp - 1) / at.tp
    others = at.stage_devices - 1
    reached = others * (1 - (1 - 1 / at.stage_devices) ** (at.expert_share * at.experts))
    sent = np.where(has_groups, at.moe_layers * local * _DISPATCH_BYTES * reached / at.tp, 0.0)
    share = np.where(at.has_link > 0, rates["link"], rates["pcie"])
    return (ring + sent) / (at.link * share)


def _moved_s(at: Columns, rates: Rates, tokens: Numbers) -> Numbers:
    """What norms, rotations, gates and routing read and write: little, but for small models with few bits."""
    values = at.moved_whole / at.attention_dp + at.moved_spread / at.stage_devices
    moved: Numbers = rates["passes"] * tokens * values * _ACTIVATION_BYTES / at.bandwidth
    return moved


def _kernels_s(at: Columns, rates: Rates) -> Numbers:
    mixers = at.layers * at.mixer_kernels * rates["layer"]
    return mixers + at.moe_layers * at.expert_kernels * rates["expert_layer"]
