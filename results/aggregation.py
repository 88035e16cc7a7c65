"""Figures of a set that are no mean of items: another harness's function makes them of raw values, clusters resampled.

`MetricInfo.aggregation` names the collection of tasks that knows the function, and what it needs to find it.
"""

from __future__ import annotations

import copy
import importlib
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from ..harness.contracts import UserError
from ..metrics.statistics import Interval, Resampled, draw_clusters

log = logging.getLogger("toksweep")

Aggregate = Callable[[Sequence[object]], float]
FINDERS = {"lmms": "..tasks.lmms.aggregation"}
"""By collection: a module with `find(text) -> Aggregate`; imported when a folder has such a metric."""
ROUNDS = 200
"""Resamples: every one calls a function that is not ours and may be slow."""


def find(aggregation: str) -> Aggregate:
    """The function of a `MetricInfo.aggregation`, such as `lmms {...}`.

    Raises:
        UserError: a collection that we do not have, or a function that is not there any more.
    """
    collection, _, text = aggregation.partition(" ")
    if collection not in FINDERS:
        raise UserError(f"The scores are aggregated by {collection!r}, which this version of toksweep does not know.")
    found: Aggregate = importlib.import_module(FINDERS[collection], __package__).find(text)
    return found


def bootstrap(aggregate: Aggregate, values: Iterable[tuple[str, object]], *, seed: int = 0) -> Interval:
    """The figure of (cluster, raw value) pairs with a percentile interval over resampled clusters; see `resample`."""
    by_cluster: dict[str, list[object]] = {}
    for cluster, raw in values:
        by_cluster.setdefault(cluster, []).append(raw)
    return resample(aggregate, [by_cluster[c] for c in sorted(by_cluster)], seed=seed).interval()


def resample(aggregate: Aggregate, clusters: Sequence[Sequence[object]], *, seed: int = 0) -> Resampled:
    """The figure of the raw values of all clusters, and on resampled clusters.

    NaN where the function fails (a set that lacks what it needs); without draws for fewer than two clusters, or where
    it fails on every resample at first. Copies of a cluster in a resample are told apart by their `*id` fields, as
    functions that pair values by such a field need it.
    """
    value = _try(aggregate, [raw for own in clusters for raw in own])
    if len(clusters) < 2 or math.isnan(value):
        return Resampled(value, np.empty(0))
    draws: list[float] = []
    for counts in draw_clusters(ROUNDS, len(clusters), seed).astype(int).tolist():
        drawn = [
            _copy(raw, n) for own, times in zip(clusters, counts, strict=True) for n in range(times) for raw in own
        ]
        draws.append(_try(aggregate, drawn))
        if len(draws) == 10 and all(map(math.isnan, draws)):
            return Resampled(value, np.empty(0))  # it takes whole sets only
    return Resampled(value, np.array(draws))


def _try(aggregate: Aggregate, values: Sequence[object]) -> float:
    try:
        return float(aggregate(values)) if values else math.nan
    except UserError:
        raise
    except Exception as error:
        log.debug("an aggregation failed on %d values: %s: %s", len(values), type(error).__name__, error)
        return math.nan


def _copy(raw: object, number: int) -> object:
    if number and isinstance(raw, Mapping):
        return {k: f"{v}#{number}" if isinstance(v, str) and str(k).endswith("id") else v for k, v in raw.items()}
    return copy.copy(raw)
