"""Confidence sequences: what is known of a mean after each item, valid at any moment one cares to look.

Betting on a bounded mean, Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting",
Journal of the Royal Statistical Society B 86(1), 2024 (arXiv 2010.15728), Theorem 3 and the approximate GRAPA bets of
its appendix B.3. By Ville's inequality the wealth of a bet against a true mean exceeds 1/alpha at any time with
probability at most alpha: looking after every item costs nothing, unlike a fixed-size test that is repeated.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_GRID = 401
# Share of the largest allowed bet: a bet that can lose everything would end the game at one bad item.
_BOLDNESS = 0.75


def interval(values: Sequence[float], cap: float, alpha: float) -> tuple[float, float]:
    """Bounds of the mean of `min(value, cap)` at confidence 1 - alpha, valid at every sample size at once."""
    grid = np.linspace(0.0, 1.0, _GRID)[1:-1]
    scaled = _scaled(values, cap)
    # Each side gets half of alpha, so that the two together miss with probability alpha.
    threshold = np.log(2 / alpha)
    kept = (log_wealth(scaled, grid, 1) < threshold) & (log_wealth(scaled, grid, -1) < threshold)
    if not kept.any():
        mean = float(scaled.mean())
        return mean * cap, mean * cap
    inside = grid[kept]
    step = 1.0 / (_GRID - 1)
    return max(0.0, float(inside[0]) - step) * cap, min(1.0, float(inside[-1]) + step) * cap


def is_shown_below(values: Sequence[float], limit: float, cap: float, alpha: float) -> bool:
    """Whether the mean is below `limit` with confidence 1 - alpha."""
    return _beats(values, limit, cap, alpha, -1)


def is_shown_above(values: Sequence[float], limit: float, cap: float, alpha: float) -> bool:
    """Whether the mean is above `limit` with confidence 1 - alpha."""
    return _beats(values, limit, cap, alpha, 1)


def _beats(values: Sequence[float], limit: float, cap: float, alpha: float, side: int) -> bool:
    if not values:
        return False
    wealth = log_wealth(_scaled(values, cap), np.array([limit / cap]), side)
    return bool(wealth[0] >= np.log(1 / alpha))


def log_wealth(values: Floats, means: Floats, side: int) -> Floats:
    """Largest log wealth so far of a bet that the mean lies above (+1) or below (-1) each of `means`, all in (0, 1)."""
    bets = _bets(values, means, side)
    gains = np.log1p(side * bets * (values[:, None] - means[None, :]))
    return np.asarray(np.maximum(np.cumsum(gains, axis=0).max(axis=0), 0.0))


def _bets(values: Floats, means: Floats, side: int) -> Floats:
    """Bets from the past only: the seen mean's distance over the seen variance around it."""
    count = np.arange(1, len(values) + 1)
    sums = np.concatenate([[0.0], np.cumsum(values)[:-1]])
    squares = np.concatenate([[0.0], np.cumsum(values**2)[:-1]])
    # Before the first item: a mean in the middle and the variance of a fair coin count as one item.
    mean = (0.5 + sums) / count
    variance = np.maximum((0.25 + squares) / count - mean**2, 0.0) + 0.25 / count**2
    distance = side * (mean[:, None] - means[None, :])
    ideal = distance / (variance[:, None] + distance**2)
    largest = 1 / means if side > 0 else 1 / (1 - means)
    return np.clip(ideal, 0.0, _BOLDNESS * largest[None, :])


def _scaled(values: Sequence[float], cap: float) -> Floats:
    return np.minimum(np.asarray(values, dtype=np.float64), cap) / cap
