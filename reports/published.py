"""Published figures beside measured ones: hollow, on the same axes only under the same metric, protocol and data."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..results import published
from ..results.published import SUFFIX, Published
from ..results.store import write_atomically
from .naming import places
from .printed import show, show_cost

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, PAPER, FONT = "#5b636c", "#ffffff", 6.5
NAMES = {"t_acc": "T-ACC", "t_ned": "T-NED", "f_sim": "F-Sim"}
COST = "bits_per_pixel"


def panel(row: Mapping[str, Any], cost: str) -> tuple[Published, ...]:
    """What stands in a panel of its own beside the figure of a series: all of its kind, where none is the same.

    Args:
        row: of the series.
    """
    task, subset, metric, protocol = (str(row[c]) for c in ("task", "subset", "metric", "protocol"))
    if cost != COST or published.same(task, subset, metric, protocol):
        return ()
    return published.beside(task, metric)


def about(points: Sequence[Published]) -> str:
    """Small print: what the points are of, and that they are not comparable with the figure beside."""
    other = "Another protocol or other data than in the figure beside."
    return f"Published, not measured here: {points[0].protocol}. {other}"


def caption(points: Sequence[Published]) -> str:
    """What the panel shows."""
    side, metric = points[0].side, NAMES[points[0].metric]
    return f"published: {metric} of TokBench at {side} pixels, another protocol or other data than measured here"


def paint(axes: Axes, points: Sequence[Published]) -> dict[str, str]:
    """Draw a panel, and return the texts to hover on by the id of what they belong to."""
    titles = hollow(axes, [(p.bits_per_pixel, p.mean, p.label, title(p)) for p in points if p.bits_per_pixel])
    for p in points:
        if p.kind == "resize":
            axes.axhline(
                p.mean, color=INK, linewidth=1.1, linestyle=":", label=f"published, resize only: {show(p.mean)}"
            )
    unknown = [p.label for p in points if p.bits_per_pixel is None and p.kind != "resize"]
    if unknown:
        told = textwrap.fill(f"bits not known: {', '.join(unknown)}", 60)
        axes.text(0.02, 0.98, told, transform=axes.transAxes, va="top", fontsize=6.5, alpha=0.7)
    axes.set_ylim(0, 1.12 if unknown else 1.04)
    axes.set_ylabel(f"{NAMES[points[0].metric]}, mean of size bins (higher is better)")
    axes.grid(alpha=0.15)
    axes.set_axisbelow(True)
    return titles


def hollow(
    axes: Axes, points: Sequence[tuple[float, float, str, str]], others: Sequence[tuple[float, float]] = ()
) -> dict[str, str]:
    """Draw published points, named; each is bits per pixel, score, name, and what hovering on it tells.

    Args:
        others: points that are drawn already, for names to keep clear of.
    """
    titles = {}
    points = sorted(points)
    named = places([(x, y) for x, y, *_ in points], [name for _, _, name, _ in points], FONT, others)
    for number, ((x, y, name, told), place) in enumerate(zip(points, named, strict=True)):
        (mark,) = axes.plot(x, y, "o", color=INK, markerfacecolor=PAPER, markersize=5.5, zorder=3)
        mark.set_gid(gid := f"published-{number}")
        titles[gid] = told
        if not number:
            mark.set_label("published (TokBench)")
        axes.annotate(
            name, (x, y), xytext=(place.x, place.y), textcoords="offset points", fontsize=FONT, color=INK, ha=place.ha,
            va=place.va,
        )  # fmt: skip
    return titles


def title(point: Published) -> str:
    """What hovering on a point tells."""
    parts = {"small": point.small, "medium": point.medium, "large": point.large}
    bins = ", ".join(f"{name} {show(value)}" for name, value in parts.items())
    bits = show_cost(COST, point.bits_per_pixel) if point.bits_per_pixel else "not known"
    lines = [f"{point.label}{SUFFIX}", f"{NAMES[point.metric]}: {show(point.mean)} ({bins})"]
    return "\n".join([*lines, f"bits per pixel: {bits}", point.protocol, *([point.note] if point.note else [])])


def write_table(panels: Sequence[tuple[str, Sequence[Published]]], out: Path) -> None:
    """`published.csv`: the points of the panels, by the task that they stand beside."""
    import pandas as pd

    rows = [
        {"beside": task, "tokenizer": p.tokenizer, "factor": p.factor, "metric": p.metric, "value": p.mean}
        | {f"size={n}": getattr(p, n) for n in ("small", "medium", "large")}
        | {"bits_per_pixel": p.bits_per_pixel, "protocol": p.protocol, "source": "literature", "note": p.note}
        for task, points in panels
        for p in points
    ]
    if rows:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "published.csv", pd.DataFrame(rows).to_csv(index=False))
