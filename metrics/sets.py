"""Figures of two sets of features: Fréchet distance, kernel distance, Inception score, precision and recall.

The arithmetic is torch-fidelity's, on features that were taken one picture at a time. All of these fall, or rise, with
the number of pictures alone, so that only sets of one size are comparable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .statistics import Interval

Features = NDArray[np.float32]
Figure = Callable[[Features, Features], float]
"""From features of the outputs and of the originals, [pictures, numbers] each."""

SUBSETS, SUBSET = 100, 1000
"""Of the kernel distance: the mean over so many subsets of so many pictures; of all pictures where there are fewer."""
SPLITS = 10
"""Of the Inception score: the mean over so many parts of the set."""
NEIGHBOURHOOD = 3
"""Of precision and recall: a picture's ball reaches to its third neighbour."""
GROUPS = 20
"""Groups of clusters that the jackknife leaves out in turn."""
MOST_PICTURES, MOST_NUMBERS = 2_000, 1_000_000
"""Larger sets, in pictures or in pictures times numbers, have no interval: every group costs a whole figure."""


def frechet(ours: Features, originals: Features) -> float:
    """Heusel et al. 2017 (arXiv:1706.08500, section 2), by torch-fidelity; below zero by rounding alone is zero.

    NaN of fewer than two pictures, which have no covariance.
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    if len(ours) < 2:
        return math.nan
    sides = (fid_features_to_statistics(_tensor(side)) for side in (ours, originals))
    return max(0.0, float(fid_statistics_to_metric(*sides, verbose=False)[KEY_METRIC_FID]))


def quick_frechet(ours: Features, originals: Features) -> float:
    """The same from the factors of both covariances, tr (A'A B'B)^1/2 = |A B'| (nuclear norm), within rounding.

    A product of two covariances of few pictures is singular, and torch-fidelity takes seconds for its eigenvalues; here
    matrices are as small as the rank.
    """
    if len(ours) < 2:
        return math.nan
    sides = [np.asarray(side, dtype=np.float64) for side in (ours, originals)]
    centres = [side.mean(0) for side in sides]
    a, b = (_factor((s - c) / math.sqrt(len(s) - 1)) for s, c in zip(sides, centres, strict=True))
    shift = centres[0] - centres[1]
    total = shift @ shift + (a * a).sum() + (b * b).sum() - 2 * np.linalg.norm(a @ b.T, "nuc")
    return max(0.0, float(total))


def _factor(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    """R of a QR factorisation, with the same covariance and no more rows than numbers."""
    factor: Any = np.linalg.qr(centred, mode="r")
    found: NDArray[np.float64] = factor
    return found


def kernel(ours: Features, originals: Features) -> float:
    """Squared maximum mean discrepancy, cubic kernel, unbiased (Binkowski et al. 2018, arXiv:1801.01401, section 4), by
    torch-fidelity. It may fall below zero.

    It has no bias where both sets are drawn apart. Reconstructions correspond to their originals, and then it too falls
    with the number of pictures.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    size = min(SUBSET, len(ours), len(originals))
    if size < 2:
        return math.nan
    subsets = SUBSETS if size == SUBSET else 1  # subsets of all pictures are all the same
    found = kid_features_to_metric(
        _tensor(ours), _tensor(originals), kid_subsets=subsets, kid_subset_size=size, verbose=False
    )
    return float(found[KEY_METRIC_KID_MEAN])


def inception_score(ours: Features, originals: Features) -> float:
    """Salimans et al. 2016 (arXiv:1606.03498, section 4), by torch-fidelity, of the outputs alone; from their logits.

    NaN of fewer pictures than there are splits.
    """
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

    if len(ours) < SPLITS:
        return math.nan
    return float(isc_features_to_metric(_tensor(ours), splits=SPLITS)[KEY_METRIC_ISC_MEAN])


def precision(ours: Features, originals: Features) -> float:
    """The share of outputs in the balls of originals (Kynkäänniemi et al. 2019, arXiv:1904.06991, section 2)."""
    return _precision_and_recall(ours, originals)[0]


def recall(ours: Features, originals: Features) -> float:
    """The share of originals in the balls of outputs (Kynkäänniemi et al. 2019, arXiv:1904.06991, section 2)."""
    return _precision_and_recall(ours, originals)[1]


def _precision_and_recall(ours: Features, originals: Features) -> tuple[float, float]:
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    if min(len(ours), len(originals)) <= NEIGHBOURHOOD:
        return math.nan, math.nan
    found = prc_features_to_metric(
        _tensor(ours), _tensor(originals), prc_neighborhood=NEIGHBOURHOOD, save_cpu_ram=True, verbose=False
    )
    return float(found[KEY_METRIC_PRECISION]), float(found[KEY_METRIC_RECALL])


def _tensor(features: Features) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))


class Statistic(NamedTuple):
    """How a figure is computed, how the ones that its interval comes from are, and between which bounds it lies."""

    figure: Figure
    again: Figure
    least: float = 0.0
    most: float = math.inf


STATISTICS = {
    "frechet": Statistic(frechet, quick_frechet),
    "kernel": Statistic(kernel, kernel, -math.inf),
    "inception_score": Statistic(inception_score, inception_score, 1.0),
    "precision": Statistic(precision, precision, most=1.0),
    "recall": Statistic(recall, recall, most=1.0),
}


def measure(name: str, ours: Features, originals: Features, clusters: Sequence[str]) -> Interval:
    """A figure with its 95% interval by a jackknife that leaves out groups of clusters, Student's t of their number.

    No bootstrap: copies of a picture in a resample are each other's nearest neighbours and take rank from a covariance,
    so that its percentiles need not hold the figure. There is no interval (NaN) of fewer than two clusters, or of a set
    that is too large for it.

    Args:
        name: of `STATISTICS`.
        clusters: [pictures] of the pictures of both sides, which correspond.
    """
    statistic = STATISTICS[name]
    value = statistic.figure(ours, originals) if len(ours) else math.nan
    names, of = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    if len(names) < 2 or len(ours) > MOST_PICTURES or ours.size > MOST_NUMBERS or math.isnan(value):
        return Interval(value, math.nan, math.nan)
    groups = min(GROUPS, len(names))
    group = np.random.default_rng(0).permutation(len(names))[of] % groups
    without = np.array([statistic.again(ours[group != g], originals[group != g]) for g in range(groups)])
    if np.isnan(without).any():
        return Interval(value, math.nan, math.nan)
    from scipy.stats import t

    reach = t.ppf(0.975, groups - 1) * math.sqrt((groups - 1) * without.var())
    return Interval(value, max(value - reach, statistic.least), min(value + reach, statistic.most))
