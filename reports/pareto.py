"""Pareto mathematics: which points no other point beats in both cost and score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def front(
    cost: Sequence[float] | NDArray[np.float64],
    value: Sequence[float] | NDArray[np.float64],
    *,
    higher_is_better: bool,
) -> NDArray[np.bool_]:
    """[n] whether each point is on the front: no other is at least as good in both and better in one.

    Equal points are on the front together. A point whose cost or value is NaN is never on it, and beats nobody.

    Args:
        cost: [n] less is better.
        value: [n] scores.

    Raises:
        ValueError: lengths differ.
    """
    x, y = np.asarray(cost, dtype=np.float64), np.asarray(value, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"cost and value must be two lists of one length, got {x.shape} and {y.shape}")
    if not higher_is_better:
        y = -y
    no_worse = (x[:, None] <= x) & (y[:, None] >= y)
    better = (x[:, None] < x) | (y[:, None] > y)
    beaten = (no_worse & better).any(axis=0)
    mask: NDArray[np.bool_] = ~beaten & ~np.isnan(x) & ~np.isnan(y)
    return mask
