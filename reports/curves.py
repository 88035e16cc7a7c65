"""What one number can say of a curve of scores over token counts: two areas, a smallest budget, and TokDense.

Both areas are means over the logarithm of the token count, from `low` to the full count: halving the tokens weighs the
same wherever it happens, and the unit is that of the score. A curve ends at the full count with the score of full
tokens, which every compressor has there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def area(tokens: Sequence[float], scores: ArrayLike, *, low: float) -> Array:
    """[...] mean score over log tokens from `low` to the largest count, straight between the points (trapezoids).

    Args:
        tokens: [points] rising, each above 0; the last is the full count.
        scores: [..., points].
        low: where to start; between the first and the last count. NaN comes back where nothing lies between them.

    Raises:
        ValueError: counts that fall or are not above 0, another number of scores, or a `low` that no point covers.
    """
    x, y, start = _checked(tokens, scores, low)
    if start < x[0]:
        raise ValueError(f"the curve begins at {tokens[0]} tokens and says nothing of {low}")
    total = np.zeros(y.shape[:-1])
    for i in range(len(x) - 1):
        left, right = max(x[i], start), x[i + 1]
        if right > left:
            at_left = y[..., i] + (y[..., i + 1] - y[..., i]) * (left - x[i]) / (right - x[i])
            total += (at_left + y[..., i + 1]) / 2 * (right - left)
    return _over(total, x[-1] - start)


def hypervolume(tokens: Sequence[float], scores: ArrayLike, *, low: float, worst: float = 0.0) -> Array:
    """[...] the area that the front of the points dominates, from `low` tokens and a score of `worst`, over its width.

    It is the mean over log tokens of the best score above `worst` that was measured with as few tokens: nothing is
    interpolated, and where no point is as cheap nothing is gained. Zitzler and Thiele, PPSN 1998.

    Args:
        tokens, scores, low: as in `area`; here the first count may be above `low`.
    """
    x, y, start = _checked(tokens, scores, low)
    best = np.maximum.accumulate(np.maximum(y - worst, 0.0), axis=-1)
    ends = np.maximum(x, start)
    return _over((best[..., :-1] * np.diff(ends)).sum(axis=-1), x[-1] - start)


def _checked(tokens: Sequence[float], scores: ArrayLike, low: float) -> tuple[Array, Array, float]:
    counts, y = np.asarray(tokens, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if counts.ndim != 1 or not len(counts) or y.shape[-1:] != counts.shape:
        raise ValueError(f"each point needs a token count and a score, got {counts.shape} and {y.shape}")
    if not (counts > 0).all() or (np.diff(counts) < 0).any() or not 0 < low <= counts[-1]:
        raise ValueError(f"token counts must rise from above 0, and {low} must not exceed the last: {list(tokens)}")
    return np.log(counts), y, math.log(low)


def _over(total: Array, width: float) -> Array:
    return total / width if width > 0 else np.full_like(total, np.nan)


def smallest_retaining(tokens: Sequence[float], retention: Sequence[float], share: float) -> int | None:
    """The index of the smallest measured token count that retains `share`, as does every larger one; None if none does.

    Nothing is interpolated. That larger counts must retain it too keeps a lucky point from standing for the method.
    """
    found = None
    for i in sorted(range(len(tokens)), key=lambda i: (-tokens[i], -retention[i])):
        if not retention[i] >= share:
            break
        found = i
    return found


def tokdense(accuracy: float, tokens: float) -> float:
    """TokDense: accuracy in percent over the number of visual tokens that enter the LLM (their mean, if it varies).

    Zhang and Fu, VQToken, arXiv 2503.16980, section 3.1.2, equation 2. It grows without bound as the count falls, and
    so prefers the extreme: read it beside the accuracy. NaN for a count that is not above 0.

    Args:
        accuracy: a fraction, as scores are stored.
    """
    return 100.0 * accuracy / tokens if tokens > 0 else math.nan
