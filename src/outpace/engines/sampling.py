"""The next token from a row of logits, for steps that are run by ourselves. Pure but for the dice."""

import math

import numpy as np
from numpy.typing import NDArray

from outpace.engines.openvino_wire import Sampling

Row = NDArray[np.float32]

# A row is looked through for tokens within so much of the likeliest (in logarithms of shares) until these hold all that
# may be drawn: sorting a whole vocabulary takes milliseconds, a comparison microseconds.
_DEPTHS = (3.0, 6.0, 9.0, 14.0)
# What 32-bit arithmetic may be off near the edge of a filter; behind it shares are exact.
_SLACK = 1e-3
# Of a whole vocabulary the block of tokens is drawn first, then the token: running sums over all take 0.4 ms.
_BLOCK_TOKENS = 256


def pick(row: Row, sampling: Sampling, dice: np.random.Generator) -> int:
    """The likeliest token at temperature 0, else one drawn.

    Filters in OpenVINO GenAI's order: temperature, `top_p`, `min_p`, `top_k`; of its penalties none is applied.
    """
    if not sampling.temperature:
        return int(row.argmax())
    # Logarithms of shares, but for what they have in common.
    scaled = row - row.max()
    if sampling.temperature != 1.0:
        scaled /= np.float32(sampling.temperature)
    if sampling.top_p >= 1.0 and not sampling.min_p and not sampling.top_k:
        return _drawn_of_many(np.exp(scaled, out=scaled), dice)
    tokens, weights = _head(scaled, sampling)
    return int(tokens[_drawn(weights, dice.random())])


def _head(scaled: Row, sampling: Sampling) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The tokens that may be drawn, likeliest first, and their weights: 1 for the likeliest."""
    # Pairwise sums: 32 bits are off by less than a millionth.
    whole = float(np.exp(scaled).sum()) if sampling.top_p < 1.0 else 0.0
    found, near = _found(scaled, sampling, whole)
    if 0 < sampling.top_k < len(near):
        # Sorting takes longer than leaving out what `top_k` would; equal ones at its edge stay for the sorting.
        least = np.partition(near, -sampling.top_k)[-sampling.top_k]
        found, near = found[near >= least], near[near >= least]
    order = np.argsort(-near, kind="stable")
    tokens, weights = found[order], near[order]
    if sampling.top_p < 1.0:
        # Up to and with the one that reaches it.
        weights = weights[: int(np.searchsorted(np.cumsum(weights), sampling.top_p * whole)) + 1]
    if sampling.min_p:
        weights = weights[weights >= sampling.min_p * weights[0]]
    if sampling.top_k:
        weights = weights[: sampling.top_k]
    return tokens[: len(weights)], weights


def _found(scaled: Row, sampling: Sampling, whole: float) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """All tokens that may be drawn and some that may not, in the vocabulary's order, and what each weighs.

    `whole` is what all tokens weigh, where there is a `top_p`.
    """
    deepest = -math.log(sampling.min_p) if sampling.min_p else math.inf
    for depth in (*(depth for depth in _DEPTHS if depth < deepest), deepest):
        found = np.flatnonzero(scaled >= -(depth + _SLACK))
        near = np.exp(scaled[found].astype(np.float64))
        if _is_enough(near, sampling, whole):
            break
    return found, near


def _is_enough(weights: NDArray[np.float64], sampling: Sampling, whole: float) -> bool:
    """Nothing less likely than these may be drawn."""
    if 0 < sampling.top_k <= len(weights):
        return True
    return sampling.top_p < 1.0 and bool(weights.sum() >= sampling.top_p * whole)


def _drawn_of_many(weights: Row, dice: np.random.Generator) -> int:
    """One of a whole vocabulary."""
    sums = np.add.reduceat(weights, np.arange(0, len(weights), _BLOCK_TOKENS))
    before = np.cumsum(sums, dtype=np.float64)
    at = dice.random() * before[-1]
    block = int(np.searchsorted(before, at, side="right"))
    block = min(block, len(sums) - 1)
    start = block * _BLOCK_TOKENS
    within = (at - (before[block] - sums[block])) / sums[block]
    return start + _drawn(weights[start : start + _BLOCK_TOKENS], within)


def _drawn(weights: NDArray[np.floating], at: float) -> int:
    """The one at this share of the running sums."""
    sums = np.cumsum(weights, dtype=np.float64)
    # Rounding may put it at the very end.
    return min(int(np.searchsorted(sums, at * sums[-1], side="right")), len(sums) - 1)
