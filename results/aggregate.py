"""Sample records to cell records: one row per (cell, metric, slice), complete or partial."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd

from ..metrics.statistics import Interval, cluster_bootstrap, cluster_correlation
from .aggregation import bootstrap, find
from .groups import by_cell, group_rows
from .latency import latency_columns
from .published import rows_beside
from .records import COLUMNS, ILLUSTRATIVE_BELOW, SampleRecord, Score
from .sets import SetFigure, Side, is_set, set_figure
from .store import Cell, MetricInfo, ResultsFolder, write_atomically

ROUNDS = 1000
NONE = Interval(math.nan, math.nan, math.nan)


def table(folder: ResultsFolder) -> pd.DataFrame:
    """The cell records of all runs of a folder, with the columns of `COLUMNS`.

    Raises:
        UserError: there is nothing in the folder.
    """
    cells = folder.cells()
    untouched = {
        _ground(cell): Side(cell.work_id, folder.records(cell.work_id)) for cell in cells if cell.kind == "untouched"
    }
    rows = [row for cell in cells for row in _rows(folder, cell, untouched.get(_ground(cell), Side("", {})))]
    rows += group_rows(folder, cells, by_cell(rows))
    rows += rows_beside(rows)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def write_cells(folder: ResultsFolder) -> pd.DataFrame:
    """Rebuild `cells.parquet` and return its table."""
    cells = table(folder)
    buffer = io.BytesIO()
    cells.to_parquet(buffer, index=False)
    write_atomically(folder.path / "cells.parquet", buffer.getvalue())
    return cells


def cluster_table(
    records: Iterable[SampleRecord], metric: str, *, mean_over: str = "", only: tuple[str, str] | None = None
) -> tuple[list[str], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Cluster ids, with sums and counts of scored items, [clusters, bins].

    Args:
        mean_over: slice key whose values are the bins; empty for a single bin of all items.
        only: a slice key and value; other items are left out.
    """
    cells: dict[tuple[str, str], list[float]] = {}
    for record in records:
        score = record.scores.get(metric)
        for value, slices in score.items if score else ():
            if only and slices.get(only[0]) != only[1]:
                continue
            if mean_over and not only and mean_over not in slices:
                continue
            cells.setdefault((record.cluster_id, slices[mean_over] if mean_over and not only else ""), []).append(value)
    rows = {cluster: i for i, cluster in enumerate(sorted({c for c, _ in cells}))}
    columns = {name: i for i, name in enumerate(sorted({b for _, b in cells}))}
    sums, counts = np.zeros((len(rows), len(columns))), np.zeros((len(rows), len(columns)))
    for (cluster, name), values in cells.items():
        at = rows[cluster], columns[name]
        sums[at], counts[at] = math.fsum(values), len(values)
    return list(rows), sums, counts


def _ground(cell: Cell) -> tuple[object, ...]:
    """What a cell shares with the untouched one that it is compared with."""
    return cell.model, cell.model_revision, cell.task, cell.subset, cell.dtype, cell.attention, cell.device


def _rows(folder: ResultsFolder, cell: Cell, untouched: Side) -> Iterator[dict[str, object]]:
    stored = folder.records(cell.work_id)
    records = [stored[i] for i in cell.sample_ids if i in stored]
    timed = latency_columns(folder.latencies(cell.work_id), cell, records)
    shared = _identity(cell) | _counts(records) | _costs(records) | timed
    for metric in cell.metrics:
        usable = [r for r in records if (s := r.scores.get(metric.name)) and s.protocol == metric.protocol]
        status = _status(cell, records, metric)
        explains = metric.family == "evidence" and cell.kind != "untouched"
        correlation = loss_correlation(records, untouched.records, metric.name, cell.metrics[0]) if explains else {}
        # what is no mean of items is not that of a slice either
        sliced = () if metric.aggregation else _slices(s for r in usable if (s := r.scores.get(metric.name)))
        ours = Side(cell.work_id, {r.sample_id: r for r in usable})
        figure = set_figure(folder, metric, ours, untouched) if is_set(metric) and status != "incomplete" else None
        comparable = not (metric.whole_set and cell.subset != "all")
        for slice_name, only in [(None, None), *sliced]:
            told = {"slice": slice_name, "status": status, "comparable": comparable} | ({} if only else correlation)
            yield shared | _value(usable, metric, only, status, figure) | told


def loss_correlation(
    records: Iterable[SampleRecord], untouched: Mapping[str, SampleRecord], explaining: str, headline: MetricInfo
) -> dict[str, object]:
    """Pearson's correlation, over samples, of what two metrics lose against the untouched cell, as columns of a row.

    Samples count that the untouched cell scores better than the worst: of the others nothing can be lost. There is no
    value where either loss is the same for all of them, or fewer than three are left.
    """
    clusters, lost, cost = [], [], []
    for record in records:
        pair = record, untouched.get(record.sample_id, record)
        (left, there), (score, whole) = ([_item_mean(r, n) for r in pair] for n in (explaining, headline.name))
        if left is None or there is None or score is None or whole in (None, headline.worst):
            continue
        clusters.append(record.cluster_id)
        lost.append(there - left)
        cost.append(whole - score)
    found = cluster_correlation(clusters, lost, cost, rounds=ROUNDS) if len(lost) > 2 else NONE
    return {
        "loss_correlation": _number(found.value),
        "loss_correlation_low": _number(found.low),
        "loss_correlation_high": _number(found.high),
        "loss_correlation_n": len(lost),
        "loss_correlation_clusters": len(set(clusters)),
    }


def _item_mean(record: SampleRecord, metric: str) -> float | None:
    score = record.scores.get(metric)
    return fmean(value for value, _ in score.items) if score and score.items else None


def _identity(cell: Cell) -> dict[str, object]:
    values = {k: getattr(cell, k) for k in COLUMNS if hasattr(cell, k)}
    return values | {"method_params": json.dumps(dict(cell.method_params), sort_keys=True), "source": "measured"}


def _counts(records: Sequence[SampleRecord]) -> dict[str, object]:
    by_status = [r.status for r in records]
    return {
        "n_failed": by_status.count("failed"),
        "n_bad_input": by_status.count("bad_input"),
        "n_infeasible": by_status.count("infeasible"),
        "n_alone": len(alone := [r for r in records if r.alone is not None]) or None,
        "n_flips": sum(r.alone != r.prediction for r in alone) if alone else None,
    }


def _costs(records: Sequence[SampleRecord]) -> dict[str, object]:
    done = [r for r in records if r.status in ("ok", "infeasible")]
    layers = [r.tokens_per_layer for r in done if r.tokens_per_layer]
    return {
        "tokens_full": _mean(r.tokens_full for r in done),
        "tokens_entering": _mean(n[0] for n in layers),
        "tokens_mean": _mean([*(fmean(n) for n in layers), *(r.tokens for r in done)]),
        "tokens_kv": _mean(r.tokens_kv for r in done),
        "bits_per_pixel": _mean(_rate(r) for r in done),
        "lowest_rate": max((b for r in done if r.status == "infeasible" and (b := _rate(r)) is not None), default=None),
        "kv_bytes": _mean(r.kv_bytes for r in done),
        "flops": _mean(r.flops for r in done),
        "flops_decode": _mean(r.flops_decode for r in done),
    }


def _rate(record: SampleRecord) -> float | None:
    """Bits per pixel."""
    return record.bits / record.pixels if record.bits is not None and record.pixels else None


def _status(cell: Cell, records: Sequence[SampleRecord], metric: MetricInfo) -> str:
    scored = [r for r in records if r.status != "bad_input"]
    if any(r.status == "failed" and metric.name not in r.scores for r in scored):
        return "incomplete"
    current = [s for r in scored if (s := r.scores.get(metric.name)) and s.protocol == metric.protocol]
    if len(records) < len(cell.sample_ids) or len(current) < len(scored):
        return "partial"
    return "infeasible" if any(r.status == "infeasible" for r in records) else "complete"


def _slices(scores: Iterable[Score]) -> list[tuple[str, tuple[str, str]]]:
    found = {(k, v) for s in scores for _, slices in s.items for k, v in slices.items()}
    return [(f"{k}={v}", (k, v)) for k, v in sorted(found)]


def _value(
    records: Sequence[SampleRecord],
    metric: MetricInfo,
    only: tuple[str, str] | None,
    status: str,
    figure: SetFigure | None,
) -> dict[str, object]:
    clusters, sums, counts = cluster_table(records, metric.name, mean_over=metric.mean_over, only=only)
    interval = NONE
    contributing = sum(
        any(only is None or s.get(only[0]) == only[1] for _, s in r.scores[metric.name].items) for r in records
    )
    items, n_clusters = int(counts.sum()), len(clusters)
    if figure is not None:
        interval, contributing, items, n_clusters = figure
    elif metric.aggregation is not None:
        raw = [(r.cluster_id, value) for r in records for value in r.scores[metric.name].raw]
        n_clusters, items = len({cluster for cluster, _ in raw}), len(raw)
        contributing = sum(bool(r.scores[metric.name].raw) for r in records)
        if raw and status != "incomplete":
            interval = bootstrap(find(metric.aggregation), raw)
    elif clusters and status != "incomplete":
        interval = cluster_bootstrap(sums, counts, rounds=ROUNDS)
    return {
        "metric": metric.name,
        "metric_family": metric.family,
        "value": _number(interval.value),
        "ci_low": _number(interval.low),
        "ci_high": _number(interval.high),
        "n": contributing,
        "n_items": items,
        "n_clusters": n_clusters,
        "illustrative": n_clusters < ILLUSTRATIVE_BELOW,
        "higher_is_better": metric.higher_is_better,
        "protocol": metric.protocol,
        "unit": metric.unit,
        "worst": metric.worst,
        "aggregation": metric.aggregation,
    }


def _mean(values: Iterable[float | None]) -> float | None:
    found = [v for v in values if v is not None]
    return fmean(found) if found else None


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
