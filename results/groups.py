"""Figures of groups of tasks: the mean of their tasks' figures, as the harness that they come from defines it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..metrics.statistics import cluster_bootstrap
from .records import ILLUSTRATIVE_BELOW
from .store import Cell, MetricInfo, ResultsFolder

Rows = Mapping[str, Sequence[dict[str, object]]]
"""Headline rows of a table of cells, by cell id."""
SHARED = (
    "subset", "model", "model_revision", "method", "method_params", "label", "kind", "floor", "diagnostic", "verified",
    "budget", "budget_value", "budget_unit", "budget_convention", "family", "seed", "dtype", "attention", "device",
    "metric", "metric_family", "higher_is_better", "unit", "worst", "source",
)  # fmt: skip
COUNTS = ("n", "n_items", "n_failed", "n_bad_input", "n_infeasible")
ROUNDS = 1000


def group_rows(folder: ResultsFolder, cells: Sequence[Cell], rows: Rows) -> Iterator[dict[str, object]]:
    """Rows of the groups that were asked for, wherever all of their tasks ran in one setting.

    As lmms-eval has it (`consolidate_group_results`): a configured metric means every metric whose name holds it, and
    the mean is weighted by the tasks' sizes or not.
    """
    figures = {(f["name"], f["metric"]): f for run in folder.runs() for f in run.get("group_figures", ())}
    for figure in figures.values():
        settings: dict[tuple[object, ...], dict[str, Cell]] = {}
        for cell in cells:
            if cell.task in figure["members"]:
                place = tuple(v for k, v in vars(cell).items() if k in SHARED and k not in ("method_params", "family"))
                settings.setdefault(place, {})[cell.task] = cell
        for found in settings.values():
            if len(found) == len(figure["members"]):
                yield from _rows(folder, figure, list(found.values()), rows)


def _rows(
    folder: ResultsFolder, figure: Mapping[str, Any], members: Sequence[Cell], rows: Rows
) -> Iterator[dict[str, object]]:
    for name in dict.fromkeys(m.name for cell in members for m in cell.metrics):
        if figure["metric"] not in (name if "," in name else f"{name},none"):
            continue
        leaves = [r for cell in members for r in rows[cell.cell_id] if r["metric"] == name and r["value"] is not None]
        if not leaves:
            continue
        sizes = [float(str(r["n_items"])) if figure["weighted"] else 1.0 for r in leaves]
        values = [float(str(r["value"])) for r in leaves]
        info = next(m for cell in members for m in cell.metrics if m.name == name)
        low, high, clusters = _interval(folder, members, info, weighted=figure["weighted"])
        whole = hashlib.sha256("".join([figure["name"], *(c.cell_id for c in members)]).encode()).hexdigest()[:16]
        states = {str(r["status"]) for r in leaves}
        yield {k: leaves[0][k] for k in SHARED} | {
            "cell_id": whole,
            "work_id": whole,
            "task": figure["name"],
            "value": sum(v * s for v, s in zip(values, sizes, strict=True)) / sum(sizes),
            "ci_low": low,
            "ci_high": high,
            "protocol": f"mean of {len(leaves)} tasks{' by size' if figure['weighted'] else ''}, {info.protocol}",
            "slice": None,
            "status": next((s for s in ("incomplete", "partial", "infeasible") if s in states), "complete"),
            "comparable": all(r["comparable"] for r in leaves),
            "n_clusters": clusters,
            "illustrative": clusters < ILLUSTRATIVE_BELOW,
            **{k: sum(int(str(r[k] or 0)) for r in leaves) for k in COUNTS},
        }


def _interval(
    folder: ResultsFolder, members: Sequence[Cell], info: MetricInfo, *, weighted: bool
) -> tuple[float | None, float | None, int]:
    """Over resampled clusters of all tasks; none where a task's figure is no mean."""
    items: dict[tuple[str, int], list[float]] = {}
    means = True
    for column, cell in enumerate(members):
        means = means and all(m.aggregation is None for m in cell.metrics if m.name == info.name)
        stored = folder.records(cell.work_id)
        for i in cell.sample_ids:
            score = stored[i].scores.get(info.name) if i in stored else None
            for value, _ in score.items if score else ():
                items.setdefault((stored[i].cluster_id, 0 if weighted else column), []).append(value)
    clusters = {name: row for row, name in enumerate(sorted({c for c, _ in items}))}
    if not means or not clusters:
        return None, None, len(clusters)
    sums = np.zeros((len(clusters), len(members)))
    counts = np.zeros_like(sums)
    for (cluster, column), values in items.items():
        sums[clusters[cluster], column], counts[clusters[cluster], column] = sum(values), len(values)
    found = cluster_bootstrap(sums, counts, rounds=ROUNDS)
    return _number(found.low), _number(found.high), len(clusters)


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def by_cell(rows: Iterable[dict[str, object]]) -> dict[str, list[dict[str, object]]]:
    """Headline rows by cell id."""
    found: dict[str, list[dict[str, object]]] = {}
    for row in rows:
        if row["slice"] is None:
            found.setdefault(str(row["cell_id"]), []).append(row)
    return found
