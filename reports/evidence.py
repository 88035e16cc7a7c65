"""What became of the evidence: what each method left of it, where a task knows it, and what that cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure as Canvas

from .figures import INK, PAPER, STYLE, Figure, Style, inline, save, styles
from .ranking import SETTING, as_rows, missing
from .tables import budget_text, file_name, setting_text, show, telling_seeds

if TYPE_CHECKING:
    import pandas as pd

ENTERING, LAST, INTACT = "evidence_recall", "evidence_recall_last", "evidence_intact_last"


@dataclass(frozen=True)
class Kept:
    """One cell: what it left of the evidence, and what its score lost against full tokens.

    `correlation` is that of both losses, over samples; NaN where it is not defined.
    """

    label: str
    budget: str
    seed: str
    tokens: float
    entering: float
    last: float
    intact: float
    score: float
    lost: float
    correlation: float


@dataclass(frozen=True)
class Evidence:
    """All cells of one task and setting. `correlation` is over cells, of questions kept intact and the score."""

    task: str
    subset: str
    setting: str
    metric: str
    rows: tuple[Kept, ...]
    correlation: float
    figure: Figure


def explain(ranked: pd.DataFrame, cells: pd.DataFrame, out: Path) -> list[Evidence]:
    """A section for every task whose cells carry the evidence metrics, with its figure written to `out`.

    Args:
        ranked: what `ranking.rank` returned.
        cells: the table it was made from.
    """
    headline = cells[cells["slice"].isna() & (cells["metric_family"] == "evidence")]
    kept = {(r["cell_id"], r["metric"]): r for r in as_rows(headline)}
    looks = styles(ranked)
    found: list[Evidence] = []
    for _, part in ranked.groupby(SETTING, dropna=False, sort=False):
        score = part["metric"].iloc[0]
        part = part[part["metric"] == score]
        rows = [r for r in as_rows(part.assign(seed=telling_seeds(part))) if (r["cell_id"], ENTERING) in kept]
        if not any(r["kind"] != "untouched" for r in rows):
            continue
        made = tuple(_kept(r, kept) for r in rows)
        touched = [k for k, r in zip(made, rows, strict=True) if r["kind"] != "untouched"]
        correlation = _correlation([k.intact for k in touched], [k.score for k in touched])
        first = rows[0]
        figure = _draw(rows, made, looks, out, file_name(first["task"], first["subset"], "evidence"))
        found.append(Evidence(first["task"], first["subset"], setting_text(first), score, made, correlation, figure))
    return found


def _kept(row: dict[str, Any], kept: dict[tuple[str, str], dict[str, Any]]) -> Kept:
    entering, last, intact = (kept[row["cell_id"], name] for name in (ENTERING, LAST, INTACT))
    return Kept(
        label=row["label"], budget=budget_text(row), seed="" if missing(row["seed"]) else str(row["seed"]),
        tokens=_float(row["tokens_mean"]), entering=_float(entering["value"]), last=_float(last["value"]),
        intact=_float(intact["value"]), score=row["value"], lost=row["ceiling"] - row["value"],
        correlation=_float(intact["loss_correlation"]),
    )  # fmt: skip


def _correlation(kept: list[float], score: list[float]) -> float:
    pairs = np.array([p for p in zip(kept, score, strict=True) if not any(map(math.isnan, p))])
    if len(pairs) < 3 or pairs.std(0).min() == 0:
        return math.nan
    return float(np.corrcoef(pairs.T)[0, 1])


def _draw(rows: list[dict[str, Any]], made: tuple[Kept, ...], looks: dict[str, Style], out: Path, stem: str) -> Figure:
    """The score against the share of questions whose evidence is intact, a point per cell."""
    first, titles = rows[0], {}
    score, settings = first["metric"], {**STYLE, "svg.hashsalt": stem}
    with mpl.rc_context(settings):
        canvas = Canvas(figsize=(5.6, 4.0), layout="constrained")
        axes = canvas.subplots()
        named = set()
        for number, (row, kept) in enumerate(zip(rows, made, strict=True)):
            look = looks[row["label"]]
            (point,) = axes.plot(
                kept.intact, kept.score, look.marker, color=look.color, markersize=7, markeredgewidth=1.4,
                markerfacecolor=PAPER if row["illustrative"] else look.color,
                label=None if row["label"] in named else row["label"],
            )  # fmt: skip
            named.add(row["label"])
            point.set_gid(f"point-{number}")
            titles[f"point-{number}"] = (
                f"{kept.label} at {kept.budget}\n{score}: {show(kept.score)}\nevidence intact: {show(kept.intact)}"
            )
        axes.set_xlabel("share of questions whose evidence the last layer still sees")
        axes.set_ylabel(score)
        axes.grid(alpha=0.15, color=INK)
        axes.margins(0.07)
        canvas.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8.5, handlelength=1.6)
        save(canvas, out, stem)
    svg = inline((out / f"{stem}.svg").read_text(encoding="utf-8"), stem, titles)
    caption = f"{score} against the evidence that is left ({setting_text(first)})"
    return Figure(first["task"], first["subset"], score, first["protocol"], "evidence", caption, stem, svg)


def _float(value: object) -> float:
    return math.nan if missing(value) else float(value)  # type: ignore[arg-type]
