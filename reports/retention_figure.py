"""Retention over token counts: a line and an interval band per method, floors as one band, full tokens at 100%."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import figures
from .figures import Figure, Style
from .printed import new_stem, show
from .ranking import BUDGET
from .retention import Point, Retention, Scope

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Drawn = tuple[Retention, list[tuple[Scope, Figure | None]]]
"""A model's retention, each scope with its figure, where anything could be drawn."""


def draw(measured: Sequence[Retention], looks: Mapping[str, Style], out: Path) -> list[Drawn]:
    """Write a figure for every scope that has points, as `out/STEM.svg`, `.png` and `.pdf`."""
    stems: set[str] = set()
    return [(of, [(scope, _draw_one(of, scope, looks, out, stems)) for scope in of.scopes]) for of in measured]


def _draw_one(of: Retention, scope: Scope, looks: Mapping[str, Style], out: Path, stems: set[str]) -> Figure | None:
    placed = [p for p in scope.points if p.tokens > 0 and not math.isnan(p.retained.value)]
    if not placed:
        return None
    rows = [_row(p, f"point-{i}", of) for i, p in enumerate(placed)]
    told = dict(zip((r["gid"] for r in rows), placed, strict=True))

    def paint(axes: Axes) -> None:
        figures.floor_band(axes, rows, "tokens_mean")
        for label in scope.labels:
            own = sorted((r for r in rows if r["label"] == label), key=lambda r: r["tokens_mean"])
            if own:
                _line(axes, own, looks[label], told[own[0]["gid"]])
        axes.axhline(1.0, color=figures.INK, alpha=0.7, linewidth=1.1, linestyle=":", zorder=1)
        axes.plot(scope.full_tokens, 1.0, "*", color=figures.INK, markersize=11, zorder=4, label="full tokens")
        figures.cost_axis(axes, "tokens_mean", of.family, log=True)
        figures.score_axis(axes, {"metric": "score retained", "unit": "%", "sign": 1.0})

    protocols = {scope.metric: scope.protocol} if not scope.is_average else {"the tasks": scope.protocol}
    about = figures.basis(rows, protocols).replace("whiskers", "bands")
    stem = new_stem(stems, "retention", of.model, of.family, scope.name, scope.subset)
    svg = figures.write(paint, out, stem, about, {r["gid"]: _title(told[r["gid"]]) for r in rows})
    what = f"mean over {len(scope.tasks)} tasks" if scope.is_average else f"{scope.metric} of {scope.name}"
    caption = f"share of the score of full tokens, {what}, against tokens ({of.setting})"
    return Figure(scope.name, scope.subset, scope.metric, scope.protocol, "tokens_mean", caption, stem, svg)


def _row(point: Point, gid: str, of: Retention) -> dict[str, Any]:
    """A point as a row that the parts of other figures can draw."""
    interval = point.interval
    return {
        "label": point.label, "floor": point.floor, "illustrative": point.illustrative, "status": point.status,
        "gid": gid, "tokens_mean": point.tokens, "value": interval.value, "ci_low": interval.low,
        "ci_high": interval.high, "n": point.n, "n_clusters": point.n_clusters,
    } | dict(zip(BUDGET, point.budget, strict=True)) | of.identity  # fmt: skip


def _line(axes: Axes, rows: list[dict[str, Any]], look: Style, point: Point) -> None:
    """One method: its band only where it is no floor, for these share one."""
    x, y = [r["tokens_mean"] for r in rows], [r["value"] for r in rows]
    if not point.floor:
        low, high = ([r[end] for r in rows] for end in ("ci_low", "ci_high"))
        axes.fill_between(x, low, high, color=look.color, alpha=0.14, linewidth=0, zorder=1)
    axes.plot(
        x, y, color=look.color, linestyle="--" if point.diagnostic else "-", zorder=2,
        linewidth=0.9 if point.floor else 1.5, alpha=0.45 if point.floor else 0.9,
    )  # fmt: skip
    figures.marks(axes, rows, "tokens_mean", look)


def _title(p: Point) -> str:
    """What hovering on a point tells."""
    interval = "none" if math.isnan(p.interval.low) else f"{show(p.interval.low, '%')} to {show(p.interval.high, '%')}"
    lines = [f"{p.label} at {p.budget_text}", f"retains {show(p.retained.value, '%')}", f"95% interval: {interval}"]
    lines += [f"{p.tokens:.4g} tokens, mean over layers", f"{p.n} samples, {p.n_clusters} clusters"]
    lines += ["diagnostic: knows what no method can know"] if p.diagnostic else []
    lines += ["illustrative: too few clusters to rank"] if p.illustrative else []
    return "\n".join(lines + ([p.status] if p.status != "complete" else []))
