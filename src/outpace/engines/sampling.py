"""The next token from a row of logits, for steps that are run by ourselves. Pure but for the dice."""

import math

import numpy as np
from numpy.typing import NDArray

from outpace.engines.openvino_wire import Sampling

Row = NDArray[np.float32]

# A row is looked through for tokens within so much of the likeliest (in logarithms of shares) until these hold all that
# may be drawn: sorting a whole vocabulary takes milliseconds, a comparison microseconds.
_DEPTHS = (6.0, 14.0, math.inf)
# What 32-bit arithmetic may be off near the edge of a filter; behind it shares are exact.
_SLACK = 1e-3


def pick(row: Row, sampling: Sampling, dice: np.random.Generator) -> int:
    """The likeliest token at temperature 0, else one drawn.

    Filters in OpenVINO GenAI's order: temperature, `top_p`, `min_p`, `top_k`; of its penalties none is applied.
    """
    if not sampling.temperature:
        return int(row.argmax())
    # Logarithms of shares, but for what they have in common.
    scaled = (row - row.max()) / np.float32(sampling.temperature)
    if sampling.top_p >= 1.0 and not sampling.min_p and not sampling.top_k:
        return _drawn(np.exp(scaled, dtype=np.float32), dice)
    tokens, weights = _head(scaled, sampling)
    return int(tokens[_drawn(weights, dice)])


def _head(scaled: Row, sampling: Sampling) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The tokens that may be drawn, likeliest first, and their weights: 1 for the likeliest."""
    whole = float(np.exp(scaled, dtype=np.float32).sum(dtype=np.float64)) if sampling.top_p < 1.0 else 0.0
    depths = (_depth_of(sampling.min_p), *_DEPTHS) if sampling.min_p else _DEPTHS
    for depth in depths:
        found = np.flatnonzero(scaled >= -(depth + _SLACK))
        near = np.exp(scaled[found].astype(np.float64))
        order = np.argsort(-near, kind="stable")
        tokens, weights = found[order], near[order]
        if depth == math.inf or _is_enough(weights, depth, sampling, whole):
            break
    if sampling.top_p < 1.0:
        # Up to and with the one that reaches it.
        weights = weights[: int(np.searchsorted(np.cumsum(weights), sampling.top_p * whole)) + 1]
    if sampling.min_p:
        weights = weights[weights >= sampling.min_p * weights[0]]
    if sampling.top_k:
        weights = weights[: sampling.top_k]
    return tokens[: len(weights)], weights


def _depth_of(min_p: float) -> float:
    return -math.log(min_p) if min_p else math.inf


def _is_enough(weights: NDArray[np.float64], depth: float, sampling: Sampling, whole: float) -> bool:
    """No token behind these, which are all within `depth`, may be drawn; `whole` is what all tokens weigh."""
    return (
        0 < sampling.top_k <= len(weights)
        or depth >= _depth_of(sampling.min_p)
        or (sampling.top_p < 1.0 and bool(weights.sum() >= sampling.top_p * whole))
    )


def _drawn(weights: NDArray[np.floating], dice: np.random.Generator) -> int:
    sums = np.cumsum(weights, dtype=np.float64)
    # Rounding may put the dice at the very end.
    return min(int(np.searchsorted(sums, dice.random() * sums[-1], side="right")), len(sums) - 1)
