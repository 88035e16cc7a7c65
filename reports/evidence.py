"""What became of the evidence: what each method left of it, where a task knows it, and what that cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import correlation
from typing import TYPE_CHECKING, Any

from . import figures
from .figures import Figure, Style
from .printed import Estimate, budget_text, new_stem, setting_text, text
from .ranking import SETTING, as_rows, missing, number
from .tables import notes, telling_seeds

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

EVIDENCE = ("evidence_recall", "evidence_recall_last", "evidence_intact_last")
INTACT = "evidence_intact_last"
Rows = dict[str, dict[str, Any]]
"""The rows of one cell by metric: its score, and what it left of the evidence."""


@dataclass(frozen=True)
class Kept:
    """One cell: what it left of the evidence, and its score.

    `correlation` is that of what both lost against full tokens, over the samples that these answer; None where it is
    not defined.
    """

    label: str
    kind: str
    budget: str
    seed: str
    tokens: float
    entering: Estimate
    last: Estimate
    intact: Estimate
    score: Estimate
    correlation: Estimate | None
    illustrative: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Evidence:
    """All cells of one task, setting and protocols.

    `correlation` is over the cells that are not untouched, `n_cells` of them: of questions kept intact and the score.
    """

    task: str
    subset: str
    setting: str
    metric: str
    protocols: dict[str, str]
    rows: tuple[Kept, ...]
    correlation: float
    n_cells: int
    figure: Figure


def explain(ranked: pd.DataFrame, cells: pd.DataFrame, out: Path) -> list[Evidence]:
    """A section for every task whose cells carry the evidence metrics, with its figure written to `out`.

    Args:
        ranked: what `ranking.rank` returned.
        cells: the table it was made from.
    """
    headline = cells[cells["slice"].isna() & (cells["metric_family"] == "evidence")]
    kept = {(r["cell_id"], r["metric"]): r for r in as_rows(headline)}
    looks = figures.styles(ranked)
    stems: set[str] = set()
    found = []
    for _, part in ranked.groupby(SETTING, dropna=False, sort=False):
        part = part[part["metric"] == part["metric"].iloc[0]]
        alike: dict[tuple[str, ...], list[Rows]] = {}
        for row in as_rows(part.assign(seed=telling_seeds(part))):
            if (row["cell_id"], INTACT) in kept:
                rows = {row["metric"]: row} | {name: kept[row["cell_id"], name] for name in EVIDENCE}
                alike.setdefault(tuple(r["protocol"] for r in rows.values()), []).append(rows)
        for group in alike.values():
            if any(_score(rows)["kind"] != "untouched" for rows in group):
                found.append(_section(group, looks, out, stems))
    return found


def _section(cells: list[Rows], looks: dict[str, Style], out: Path, stems: set[str]) -> Evidence:
    first = _score(cells[0])
    touched = [(rows[INTACT]["value"], _score(rows)["value"]) for rows in cells if _score(rows)["kind"] != "untouched"]
    known = [pair for pair in touched if not any(map(missing, pair))]
    protocols = {metric: row["protocol"] for metric, row in cells[0].items()}
    figure = _draw(cells, protocols, looks, out, new_stem(stems, first["task"], first["subset"], "evidence"))
    return Evidence(
        first["task"], first["subset"], setting_text(first), first["metric"], protocols, tuple(map(_kept, cells)),
        _correlation(known), len(known), figure,
    )  # fmt: skip


def _score(rows: Rows) -> dict[str, Any]:
    return next(iter(rows.values()))


def _kept(rows: Rows) -> Kept:
    score, entering, last, intact = (Estimate.of(row) for row in rows.values())
    row = _score(rows)
    return Kept(
        row["label"], row["kind"], budget_text(row), text(row["seed"]), number(row["tokens_mean"]), entering, last,
        intact, score, _of_losses(rows[INTACT]), any(r["illustrative"] for r in rows.values()),
        notes(list(rows.values())),
    )  # fmt: skip


def _of_losses(row: dict[str, Any]) -> Estimate | None:
    if missing(row["loss_correlation"]):
        return None
    columns = {"value": "", "ci_low": "_low", "ci_high": "_high", "n": "_n", "n_items": "_n", "n_clusters": "_clusters"}
    return Estimate.of({"unit": ""} | {name: row[f"loss_correlation{end}"] for name, end in columns.items()})


def _correlation(pairs: list[tuple[float, float]]) -> float:
    sides = list(zip(*pairs, strict=True))
    return correlation(*sides) if len(pairs) > 2 and all(len(set(side)) > 1 for side in sides) else math.nan


def _draw(cells: list[Rows], protocols: dict[str, str], looks: dict[str, Style], out: Path, stem: str) -> Figure:
    """The score against the share of questions whose evidence is intact, a point per cell."""
    score, points, titles = _score(cells[0])["metric"], [], {}
    for i, rows in enumerate(cells):
        intact = Estimate.of(rows[INTACT])
        ends = {INTACT: intact.value, "low": intact.low, "high": intact.high}
        points.append(_score(rows) | ends | {"gid": f"point-{i}"})
        titles[f"point-{i}"] = figures.hover(points[-1], {name: Estimate.of(rows[name]) for name in (score, INTACT)})

    def paint(axes: Axes) -> None:
        for label in dict.fromkeys(p["label"] for p in points):
            own = [p for p in points if p["label"] == label]
            axes.errorbar(
                [p[INTACT] for p in own], [p["value"] for p in own], xerr=figures.whiskers(own, INTACT, "low", "high"),
                yerr=figures.whiskers(own), fmt="none", ecolor=looks[label].color, elinewidth=0.8, alpha=0.5, zorder=2,
            )  # fmt: skip
            figures.marks(axes, own, INTACT, looks[label])
        axes.set_xlabel("share of questions whose evidence the last layer still sees (more is better)")
        figures.score_axis(axes, points[0])

    about = figures.basis(points, {name: protocols[name] for name in (score, INTACT)})
    svg = figures.write(paint, out, stem, about, titles)
    caption = f"{score} against the evidence that is left ({setting_text(points[0])})"
    return Figure(points[0]["task"], points[0]["subset"], score, protocols[score], "evidence", caption, stem, svg)
