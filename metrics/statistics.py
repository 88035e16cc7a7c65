"""Means with cluster-bootstrap intervals, paired differences, and the non-inferiority verdict.

Samples that share a picture or a clip are one cluster and are resampled together (Field and Welsh 2007, "Bootstrapping
clustered data"): crops of one photograph say little more than the photograph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Verdict = Literal["pass", "regressed", "not enough evidence"]

_DRAWS_AT_ONCE = 4_000_000  # indices drawn in one go, 32 MB
_DRAWS_KEPT = 250_000  # 2 MB


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its confidence interval; ends are NaN where there are none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Resampled:
    """An estimate, and what it would have been on resampled clusters.

    Estimates over the same resamples stay paired: whatever is computed from them draw by draw has an interval.

    Attributes:
        draws: [rounds] NaN where a resample estimates something else; empty where the clusters are too few.
    """

    value: float
    draws: Array

    def interval(self, level: float = 0.95) -> Interval:
        """The percentile interval; NaN ends where fewer than half of the draws are left."""
        values = self.draws[~np.isnan(self.draws)]
        if len(values) == 0 or 2 * len(values) < len(self.draws):
            return Interval(self.value, math.nan, math.nan)
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
        return Interval(self.value, float(low), float(high))


def combine(function: Callable[[Array], Array], *parts: Resampled) -> Resampled:
    """A figure of several estimates, computed anew in every draw; without draws where a part has none.

    Args:
        function: from [..., parts] to [...].
    """
    value = float(function(np.array([[part.value for part in parts]]))[0])
    if not all(len(part.draws) for part in parts):
        return Resampled(value, np.empty(0))
    return Resampled(value, function(np.stack([part.draws for part in parts], axis=-1)))


def resample_means(sides: Sequence[tuple[Array, Array]], *, rounds: int = 2000, seed: int = 0) -> list[Resampled]:
    """The mean of each side as in `cluster_bootstrap`, all over the same resamples of clusters.

    Args:
        sides: sums and counts, [clusters, bins] each; row i is the same cluster in all of them.

    Raises:
        ValueError: as in `cluster_bootstrap`, or sides of different numbers of clusters.
    """
    means = [_Mean(sums, counts) for sums, counts in sides]
    if len({len(mean.sums) for mean in means}) > 1:
        raise ValueError(f"the sides must have the same clusters, got {[len(mean.sums) for mean in means]}")
    return _resampled(means, rounds=rounds, seed=seed) if means else []


def draw_clusters(rounds: int, clusters: int, seed: int = 0) -> Array:
    """[rounds, clusters] how often each cluster is drawn: the first rounds of those that means are resampled by, for
    figures that are costly to compute anew."""
    return _resample(np.random.default_rng(seed), rounds, clusters)


def cluster_bootstrap(
    sums: Array, counts: Array, *, rounds: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """The mean over bins of (total sum / total count), with a percentile interval over resampled clusters.

    A bin without a single item is left out of the mean. A cluster without items is no cluster. A resample that misses
    a bin which the data have estimates something else, and is discarded; with fewer than half of the resamples left,
    or with a bin that has a single cluster, whose spread nothing shows, there is no interval (NaN). Equal seeds and
    numbers of clusters give equal resamples.

    Args:
        sums: [clusters, bins] sums of scores.
        counts: [clusters, bins] how many items each sum holds.

    Raises:
        ValueError: shapes that differ or are not two-dimensional, negative counts, a score that is not finite, a level
            outside (0, 1).
    """
    statistic = _Mean(sums, counts)
    return _interval([statistic], rounds=rounds, level=level, seed=seed)


def paired_difference(
    a_sums: Array,
    a_counts: Array,
    b_sums: Array,
    b_counts: Array,
    *,
    rounds: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """b - a, both means as in `cluster_bootstrap`, over the same resamples of clusters.

    Row i of all four arrays, [clusters, bins], is the same cluster, and bins correspond. A cluster is left out where
    neither side has items.

    Raises:
        ValueError: as in `cluster_bootstrap`, or bins that only one side has.
    """
    a, b = _Mean(a_sums, a_counts), _Mean(b_sums, b_counts)
    if a.sums.shape != b.sums.shape or not np.array_equal(a.bins, b.bins):
        raise ValueError(f"the two sides must have the same clusters and bins, got {a.sums.shape} and {b.sums.shape}")
    return _interval([b, a], rounds=rounds, level=level, seed=seed)


def cluster_correlation(
    clusters: Sequence[str],
    a: Sequence[float],
    b: Sequence[float],
    *,
    rounds: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Pearson's correlation of two lists, with a percentile interval over resampled clusters.

    NaN where a list is constant; resamples where one is are discarded as in `cluster_bootstrap`.

    Args:
        clusters: [n] the cluster of each pair.

    Raises:
        ValueError: empty lists or ones of different lengths, or a level outside (0, 1).
    """
    return _interval([_Correlation(clusters, a, b)], rounds=rounds, level=level, seed=seed)


def noninferiority(interval: Interval, margin: float) -> Verdict:
    """Whether a change of a higher-is-better score is shown to cost at most `margin`.

    `pass`: the whole interval lies at or above -margin. `regressed`: the whole interval lies below it. Anything else,
    an interval of NaN included, is not enough evidence.

    Raises:
        ValueError: a margin that is negative or not finite.
    """
    if not margin >= 0 or not math.isfinite(margin):
        raise ValueError(f"the margin must be finite and at least 0, got {margin}")
    if interval.low >= -margin:
        return "pass"
    if interval.high < -margin:
        return "regressed"
    return "not enough evidence"


class _Mean:
    """The statistic of one side: checked arrays, and its value under weights of the clusters."""

    def __init__(self, sums: Array, counts: Array) -> None:
        self.sums, self.counts = np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)
        if self.sums.ndim != 2 or self.sums.shape != self.counts.shape:
            raise ValueError(f"sums and counts must be [clusters, bins], got {self.sums.shape}, {self.counts.shape}")
        if not np.isfinite(self.sums).all() or not np.isfinite(self.counts).all() or (self.counts < 0).any():
            raise ValueError("sums must be finite, counts finite and at least 0")
        self.bins = self.counts.sum(axis=0) > 0
        self.occupied = self.counts.sum(axis=1) > 0
        self.fewest = (self.counts[:, self.bins] > 0).sum(axis=0).min(initial=len(self.counts))

    def under(self, weights: Array) -> Array:
        """[rounds] values under weights [rounds, clusters]; NaN where a bin that the data have is empty."""
        if not self.bins.any():
            return np.full(len(weights), np.nan)
        totals, counts = weights @ self.sums[:, self.bins], weights @ self.counts[:, self.bins]
        with np.errstate(invalid="ignore"):
            ratios: Array = totals / counts
        means: Array = ratios.mean(axis=1)
        return means


class _Correlation:
    """Pearson's correlation under weights of the clusters, from sums of the moments in each."""

    def __init__(self, clusters: Sequence[str], a: Sequence[float], b: Sequence[float]) -> None:
        if not len(clusters) == len(a) == len(b) > 0:
            raise ValueError(f"pairs need a cluster each, got {len(clusters)} of {len(a)} and {len(b)} values")
        x, y = (np.asarray(side, dtype=np.float64) for side in (a, b))
        x, y = x - x.mean(), y - y.mean()
        names, of = np.unique(list(clusters), return_inverse=True)
        self.sums = np.zeros((len(names), 6))
        np.add.at(self.sums, of, np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1))
        self.occupied = np.ones(len(names), dtype=bool)
        self.fewest = len(names)

    def under(self, weights: Array) -> Array:
        """[rounds] correlations under weights [rounds, clusters]; NaN where a side is constant, up to rounding."""
        n, x, y, xx, yy, xy = (weights @ self.sums).T
        var_x, var_y = xx - x * x / n, yy - y * y / n
        varies = (var_x > 1e-12 * xx) & (var_y > 1e-12 * yy)
        with np.errstate(invalid="ignore", divide="ignore"):
            correlations: Array = (xy - x * y / n) / np.sqrt(var_x * var_y)
        return np.where(varies, correlations, np.nan).clip(-1, 1)


def _interval(sides: Sequence[_Mean | _Correlation], *, rounds: int, level: float, seed: int) -> Interval:
    """The interval of the first side, less the second where there is one."""
    if not 0 < level < 1:
        raise ValueError(f"the level must lie between 0 and 1, got {level}")
    first, *rest = _resampled(sides, rounds=rounds, seed=seed)
    found = Resampled(first.value - rest[0].value, first.draws - rest[0].draws) if rest else first
    return found.interval(level)


def _resampled(sides: Sequence[_Mean | _Correlation], *, rounds: int, seed: int) -> list[Resampled]:
    """Every side over the same resamples of clusters; without draws where one has too few clusters."""
    clusters = len(sides[0].sums)
    values = [float(side.under(np.ones((1, clusters)))[0]) for side in sides]
    occupied = np.flatnonzero(np.any([side.occupied for side in sides], axis=0))
    if len(occupied) < 2 or any(side.fewest < 2 for side in sides):
        return [Resampled(value, np.empty(0)) for value in values]
    draws: list[list[Array]] = [[] for _ in sides]
    for drawn in _weights(rounds, len(occupied), seed):
        weights = np.zeros((len(drawn), clusters))
        weights[:, occupied] = drawn
        for side, found in zip(sides, draws, strict=True):
            found.append(side.under(weights))
    return [Resampled(value, np.concatenate(found)) for value, found in zip(values, draws, strict=True)]


def _weights(rounds: int, clusters: int, seed: int) -> Iterator[Array]:
    """Resamples of clusters, [some rounds, clusters] at a time."""
    if rounds * clusters <= _DRAWS_KEPT:
        yield _kept_weights(rounds, clusters, seed)
        return
    rng = np.random.default_rng(seed)
    step = max(1, _DRAWS_AT_ONCE // clusters)
    for start in range(0, rounds, step):
        yield _resample(rng, min(step, rounds - start), clusters)


@lru_cache(maxsize=32)
def _kept_weights(rounds: int, clusters: int, seed: int) -> Array:
    """Those of few clusters, kept: the cells of a task, and the same slice of each, are all resampled alike."""
    weights = _resample(np.random.default_rng(seed), rounds, clusters)
    weights.flags.writeable = False
    return weights


def _resample(rng: np.random.Generator, rounds: int, clusters: int) -> Array:
    """[rounds, clusters] how often each cluster is drawn when `clusters` are drawn with replacement (multinomial)."""
    drawn = rng.integers(clusters, size=(rounds, clusters))
    drawn += np.arange(rounds)[:, None] * clusters
    return np.bincount(drawn.ravel(), minlength=rounds * clusters).reshape(rounds, clusters).astype(np.float64)
