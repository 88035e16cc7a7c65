"""Cells on the same samples: sums and counts whose rows are the same clusters, ready for paired intervals."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..metrics.statistics import Interval, paired_difference

Bins = dict[str, tuple[float, int]]
"""Sum and count of a sample's items under one metric, by bin."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What one metric said of one sample; `fingerprint` tells whether two cells saw the same sample by that id."""

    cluster_id: str
    bins: Bins
    fingerprint: str = ""

    @property
    def source(self) -> tuple[str, str]:
        """What must be equal for two scores to be those of one sample."""
        return self.cluster_id, self.fingerprint


Side = Sequence[dict[str, Scored]]
"""Samples by id, a mapping per seed."""


@dataclass(frozen=True)
class Table:
    """Sides on the same samples: sums and counts, [clusters, bins] each, the seeds of a side added up."""

    samples: tuple[str, ...]
    clusters: tuple[str, ...]
    sides: tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...]

    @property
    def seed(self) -> int:
        """Of the resamples: the same for the same clusters, so that tasks about the same pictures are resampled alike
        and all others independently of each other."""
        return zlib.crc32("\0".join(self.clusters).encode())


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


def bins_of(items: Iterable[tuple[float, Mapping[str, str]]], mean_over: str) -> Bins:
    """A sample's items as sums and counts; items without the slice that is averaged over are left out."""
    found: Bins = {}
    for value, slices in items:
        if mean_over and mean_over not in slices:
            continue
        name = slices[mean_over] if mean_over else ""
        total, count = found.get(name, (0.0, 0))
        found[name] = (total + float(value), count + 1)
    return found


def pair(a: Side, b: Side) -> Pairing | None:
    """b - a over the samples that every part of both sides has scored; None where there is none.

    Args:
        a, b: samples by id, a mapping per seed; the seeds of a side are averaged.
    """
    table = tabulate([a, b])
    if table is None:
        return None
    (a_sums, a_counts), (b_sums, b_counts) = table.sides
    difference = paired_difference(a_sums, a_counts, b_sums, b_counts, seed=table.seed)
    return Pairing(
        _mean(a_sums, a_counts), _mean(b_sums, b_counts), difference, len(table.samples), len(table.clusters),
        all(_same(p[i].bins, q[i].bins) for p in a for q in b for i in table.samples),
    )  # fmt: skip


def tabulate(sides: Sequence[Side]) -> Table | None:
    """The sides over the samples that every part of all of them has scored; None where there is none.

    Samples of one id and different content are not the same, and are left out.
    """
    parts = [part for side in sides for part in side]
    shared = sorted(set.intersection(*(set(part) for part in parts)))
    shared = [i for i in shared if len({part[i].source for part in parts}) == 1 and any(p[i].bins for p in parts)]
    if not shared:
        return None
    clusters = sorted({parts[0][i].cluster_id for i in shared})
    bins = sorted({name for part in parts for i in shared for name in part[i].bins})
    return Table(tuple(shared), tuple(clusters), tuple(_arrays(side, shared, clusters, bins) for side in sides))


def _arrays(
    side: Side, shared: list[str], clusters: list[str], bins: list[str]
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
