"""What every sample of every cell scored, read once; and means of cells over the same resamples of clusters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from sys import intern
from typing import Any

import numpy as np

from ..metrics.statistics import Resampled, combine
from ..results.records import SampleRecord
from ..results.store import Cell, MetricInfo
from .pairing import Scored, bins_of, tabulate

Key = tuple[str, str, str]
"""A cell's id, a metric and its protocol: a headline row of the table of cells."""
Scores = dict[Key, dict[str, Scored]]
"""Samples by id."""


def score_key(row: dict[str, Any]) -> Key:
    """The key of a row of the table of cells."""
    return row["cell_id"], row["metric"], row["protocol"]


def scores_of(cell: Cell, stored: Mapping[str, SampleRecord]) -> Scores:
    """The scores of one cell; metrics that explain scores and are none are left out.

    Args:
        stored: the records of its work by sample.
    """
    metrics = [m for m in cell.metrics if m.family != "evidence"]
    return {(cell.cell_id, m.name, m.protocol): scored(cell, m, stored) for m in metrics}


def scored(cell: Cell, metric: MetricInfo, stored: Mapping[str, SampleRecord]) -> dict[str, Scored]:
    """What the samples of a cell scored under one metric and its protocol."""
    found = {}
    for i in cell.sample_ids:
        score = stored[i].scores.get(metric.name) if i in stored else None
        if score is not None and score.protocol == metric.protocol:
            source = intern(stored[i].cluster_id), intern(stored[i].fingerprint)  # shared by all cells
            bins = bins_of(score.items, metric.mean_over)
            found[i] = Scored(source[0], bins, source[1], score.raw, metric.aggregation)
    return found


@dataclass(frozen=True)
class Means:
    """Means of several sides over the samples that all of them have, resampled alike."""

    sides: tuple[Resampled, ...]
    n_samples: int
    n_clusters: int


class Resamples:
    """Means over the same resamples, made once for all cells that have the same samples."""

    def __init__(self, scores: Scores) -> None:
        self._scores = scores
        self._cohorts: dict[tuple[object, ...], tuple[dict[Key, Resampled], int, int]] = {}
        self._samples = {key: frozenset((i, s.source) for i, s in samples.items()) for key, samples in scores.items()}

    def __contains__(self, key: Key) -> bool:
        return bool(self._scores.get(key))

    def of(self, sides: Sequence[Sequence[Key]]) -> Means | None:
        """The sides, each a cell or its seeds, which are averaged; None where they have no sample in common."""
        keys = [key for side in sides for key in side]
        if len({(*key[1:], self._samples[key]) for key in keys}) > 1:
            table = tabulate([[self._scores[key] for key in side] for side in sides])
            if table is None:
                return None
            return Means(tuple(table.resampled()), len(table.samples), len(table.clusters))
        found, n_samples, n_clusters = self._cohort(keys[0])
        if not n_samples:
            return None
        return Means(tuple(_average(found[key] for key in side) for side in sides), n_samples, n_clusters)

    def _cohort(self, key: Key) -> tuple[dict[Key, Resampled], int, int]:
        """All cells with the samples of this one, the number of these samples and of their clusters."""
        name = (*key[1:], self._samples[key])
        if name not in self._cohorts:
            keys = [k for k, samples in self._samples.items() if (*k[1:], samples) == name]
            table = tabulate([[self._scores[k]] for k in keys])
            means = table.resampled() if table else []
            counts = (len(table.samples), len(table.clusters)) if table else (0, 0)
            self._cohorts[name] = dict(zip(keys, means, strict=bool(table))), *counts
        return self._cohorts[name]


def _average(parts: Iterable[Resampled]) -> Resampled:
    return combine(lambda values: np.asarray(values.mean(axis=-1)), *parts)
