"""Cells on the same samples: sums and counts whose rows are the same clusters, ready for paired intervals."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..metrics.statistics import Interval, Resampled, combine, paired_difference, resample_means
from ..results.aggregation import find, resample

DRAWS = 2000
"""Of a figure that has fewer resamples they are repeated, so that it can be combined with means."""
Bins = dict[str, tuple[float, int]]
"""Sum and count of a sample's items under one metric, by bin."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What one metric said of one sample.

    Attributes:
        fingerprint: tells whether two cells saw the same sample by that id.
        raw: what the metric's own aggregation takes of it; empty where the figure is a mean.
        aggregation: names that, see `results.aggregation`.
    """

    cluster_id: str
    bins: Bins
    fingerprint: str = ""
    raw: tuple[object, ...] = ()
    aggregation: str | None = None

    @property
    def source(self) -> tuple[str, str]:
        """What must be equal for two scores to be those of one sample."""
        return self.cluster_id, self.fingerprint

    @property
    def counts(self) -> bool:
        """Whether the figure of a set rests on it too."""
        return bool(self.raw if self.aggregation else self.bins)


Side = Sequence[dict[str, Scored]]
"""Samples by id, a mapping per seed."""
Sums = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Table:
    """Sides on the same samples, all of what one metric said: each an aggregation of its own, or a mean."""

    samples: tuple[str, ...]
    clusters: tuple[str, ...]
    sides: tuple[Side, ...]

    @property
    def seed(self) -> int:
        """Of the resamples: the same for the same clusters, so that tasks about the same pictures are resampled alike
        and all others independently of each other."""
        return zlib.crc32("\0".join(self.clusters).encode())

    def resampled(self) -> list[Resampled]:
        """The figure of every side, its seeds averaged, all over the same resamples of clusters."""
        if self.is_mean:
            return resample_means(self.arrays(), seed=self.seed)
        return [combine(_over_seeds, *(self._aggregated(part) for part in side)) for side in self.sides]

    @property
    def is_mean(self) -> bool:
        """Whether every figure is the mean of what samples scored."""
        return not any(part[self.samples[0]].aggregation for side in self.sides for part in side)

    def arrays(self) -> list[Sums]:
        """Sums and counts of every side, [clusters, bins] each, its seeds added up."""
        bins = sorted({name for side in self.sides for part in side for i in self.samples for name in part[i].bins})
        return [self._arrays(side, bins) for side in self.sides]

    def _aggregated(self, part: Mapping[str, Scored]) -> Resampled:
        clusters: dict[str, list[object]] = {name: [] for name in self.clusters}
        for i in self.samples:
            clusters[part[i].cluster_id] += part[i].raw
        found = resample(find(str(part[self.samples[0]].aggregation)), list(clusters.values()), seed=self.seed)
        return Resampled(found.value, np.resize(found.draws, DRAWS) if len(found.draws) else found.draws)

    def _arrays(self, side: Side, bins: list[str]) -> Sums:
        row, column = {c: i for i, c in enumerate(self.clusters)}, {b: i for i, b in enumerate(bins)}
        sums, counts = np.zeros((len(row), len(bins))), np.zeros((len(row), len(bins)))
        for part in side:
            for i in self.samples:
                for name, (total, count) in part[i].bins.items():
                    at = row[side[0][i].cluster_id], column[name]
                    sums[at] += total
                    counts[at] += count
        return sums, counts


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
    if table.is_mean:
        sides = table.arrays()
        values, difference = [_mean(*side) for side in sides], paired_difference(*sides[0], *sides[1], seed=table.seed)
    else:
        figures = table.resampled()
        values = [figure.value for figure in figures]
        difference = combine(lambda v: np.asarray(v[..., 1] - v[..., 0]), *figures).interval()
    return Pairing(
        values[0], values[1], difference, len(table.samples), len(table.clusters),
        all(_same(p[i], q[i]) for p in a for q in b for i in table.samples),
    )  # fmt: skip


def tabulate(sides: Sequence[Side]) -> Table | None:
    """The sides over the samples that every part of all of them has scored; None where there is none.

    Samples of one id and different content are not the same, and are left out.
    """
    parts = [part for side in sides for part in side]
    shared = sorted(set.intersection(*(set(part) for part in parts)))
    shared = [i for i in shared if len({part[i].source for part in parts}) == 1 and any(p[i].counts for p in parts)]
    if not shared:
        return None
    clusters = sorted({parts[0][i].cluster_id for i in shared})
    return Table(tuple(shared), tuple(clusters), tuple(sides))


def _mean(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> float:
    totals = counts.sum(axis=0)
    return float((sums.sum(axis=0)[totals > 0] / totals[totals > 0]).mean())


def _over_seeds(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(values.mean(axis=-1))


def _same(a: Scored, b: Scored) -> bool:
    """Equal up to the rounding of a baseline file."""
    return a.raw == b.raw and a.bins.keys() == b.bins.keys() and all(
        a.bins[k][1] == b.bins[k][1] and abs(a.bins[k][0] - b.bins[k][0]) <= 1e-6 * max(1.0, abs(a.bins[k][0]))
        for k in a.bins
    )  # fmt: skip
