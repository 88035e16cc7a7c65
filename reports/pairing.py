"""Two cells on the same samples: sums and counts whose rows are the same clusters, ready for a paired interval."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..metrics.statistics import Interval, paired_difference

Bins = dict[str, tuple[float, int]]
"""Sum and count of a sample's items under one metric, by bin."""


@dataclass(frozen=True)
class Scored:
    """What one metric said of one sample."""

    cluster_id: str
    bins: Bins


@dataclass(frozen=True)
class Pairing:
    """The paired difference of two sides.

    Attributes:
        a, b: the two scores over the paired samples.
        difference: b - a, in units of the metric.
        n_samples, n_clusters: how many both sides have.
        identical: every sample has the same score on both sides.
    """

    a: float
    b: float
    difference: Interval
    n_samples: int
    n_clusters: int
    identical: bool


def bins_of(items: Iterable[tuple[float, dict[str, str]]], mean_over: str) -> Bins:
    """A sample's items as sums and counts; items without the slice that is averaged over are left out."""
    found: Bins = {}
    for value, slices in items:
        if mean_over and mean_over not in slices:
            continue
        name = slices[mean_over] if mean_over else ""
        total, count = found.get(name, (0.0, 0))
        found[name] = (total + float(value), count + 1)
    return found


def pair(a: Sequence[dict[str, Scored]], b: Sequence[dict[str, Scored]], *, seed: int = 0) -> Pairing | None:
    """b - a over the samples that every part of both sides has scored; None where there is none.

    Args:
        a, b: samples by id, a mapping per seed; the seeds of a side are averaged.
    """
    shared = sorted(set.intersection(*(set(part) for part in (*a, *b))))
    shared = [i for i in shared if any(part[i].bins for part in (*a, *b))]
    if not shared:
        return None
    clusters = sorted({a[0][i].cluster_id for i in shared})
    bins = sorted({name for part in (*a, *b) for i in shared for name in part[i].bins})
    sides = [_arrays(side, shared, clusters, bins) for side in (a, b)]
    (a_sums, a_counts), (b_sums, b_counts) = sides
    difference = paired_difference(a_sums, a_counts, b_sums, b_counts, seed=seed)
    return Pairing(
        _mean(a_sums, a_counts), _mean(b_sums, b_counts), difference, len(shared), len(clusters),
        all(_same(p[i].bins, q[i].bins) for p in a for q in b for i in shared),
    )  # fmt: skip


def _arrays(
    side: Sequence[dict[str, Scored]], shared: list[str], clusters: list[str], bins: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    row, column = {c: i for i, c in enumerate(clusters)}, {b: i for i, b in enumerate(bins)}
    sums, counts = np.zeros((len(clusters), len(bins))), np.zeros((len(clusters), len(bins)))
    for part in side:
        for sample in shared:
            for name, (total, count) in part[sample].bins.items():
                at = row[side[0][sample].cluster_id], column[name]
                sums[at] += total
                counts[at] += count
    return sums, counts


def _mean(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> float:
    totals = counts.sum(axis=0)
    return float((sums.sum(axis=0)[totals > 0] / totals[totals > 0]).mean())


def _same(a: Bins, b: Bins) -> bool:
    """Equal up to the rounding of a baseline file."""
    return a.keys() == b.keys() and all(
        a[k][1] == b[k][1] and abs(a[k][0] - b[k][0]) <= 1e-6 * max(1.0, abs(a[k][0])) for k in a
    )
