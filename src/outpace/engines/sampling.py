"""The next token from a row of logits, for steps that are run by ourselves. Pure but for the dice."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from outpace.engines.openvino_wire import Sampling

Row = NDArray[np.float32]

# Nearly always holds all that may be drawn; a flatter row is sorted whole.
_HEAD = 256


def pick(row: Row, sampling: Sampling, dice: np.random.Generator) -> int:
    """The likeliest token at temperature 0, else one drawn.

    Filters in OpenVINO GenAI's order: temperature, `top_p`, `min_p`, `top_k`; of its penalties none is applied.
    """
    if not sampling.temperature:
        return int(row.argmax())
    scaled = row.astype(np.float64) / sampling.temperature
    weights = np.exp(scaled - scaled.max())
    tokens, shares = _head(weights / weights.sum(), sampling)
    return int(tokens[np.searchsorted(np.cumsum(shares), dice.random() * shares.sum(), side="right")])


def _head(shares: NDArray[np.float64], sampling: Sampling) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The tokens that may be drawn, likeliest first, and their shares."""
    tokens = _likeliest(shares, min(_HEAD, len(shares)))
    if not _is_enough(shares[tokens], sampling):
        tokens = _likeliest(shares, len(shares))
    kept = shares[tokens]
    if sampling.top_p < 1.0:
        # Up to and with the one that reaches it.
        kept = kept[: int(np.searchsorted(np.cumsum(kept), sampling.top_p)) + 1]
    if sampling.min_p:
        kept = kept[kept >= sampling.min_p * kept[0]]
    if sampling.top_k:
        kept = kept[: sampling.top_k]
    return tokens[: len(kept)], kept


def _is_enough(head: NDArray[np.float64], sampling: Sampling) -> bool:
    """No token behind this head may be drawn."""
    return (
        0 < sampling.top_k <= len(head)
        or head[-1] < sampling.min_p * head[0]
        or (sampling.top_p < 1.0 and bool(head.sum() >= sampling.top_p))
    )


def _likeliest(shares: NDArray[np.float64], count: int) -> NDArray[Any]:
    if count == len(shares):
        return np.argsort(-shares, kind="stable")
    head = np.argpartition(-shares, count - 1)[:count]
    return head[np.argsort(-shares[head], kind="stable")]
