"""Figures: a metric against one cost, with intervals, the front, the floors as a band and the untouched ceiling."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, NullLocator

from ..results.published import SUFFIX
from ..results.store import write_atomically
from . import published
from .face import plain_face
from .pareto import front
from .printed import Estimate, budget_text, cost_name, new_stem, setting_text, show, show_cost
from .ranking import BUDGET, SERIES, as_rows, missing

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from ..results.published import Published

PALETTE = ("#2f7fd1", "#e07b00", "#1f9e6e", "#c8457f", "#8a63d2", "#a8871f", "#1da0b5", "#d1453b", "#7a8b1f", "#b06a4a")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
INK, PAPER = "#1b1f24", "#ffffff"
WIDTH = 5.6
"""Of a figure, in inches."""
DRAWN = dict.fromkeys(("bits_per_pixel", "tokens_mean", "flops", "flops_decode"), "fewer") | {"latency_ms": "less"}
"""Costs that scores are drawn against, with the word for the better way."""
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "pdf.fonttype": 42,
}


@dataclass(frozen=True)
class Style:
    """How a method looks in every figure of a report."""

    color: str
    marker: str


@dataclass(frozen=True)
class Figure:
    """A figure that was written, and its SVG made fit to stand in a page (colours of the text follow the page).

    `published` are the points of a panel that shows nothing else.
    """

    task: str
    subset: str
    metric: str
    protocol: str
    cost: str
    caption: str
    stem: str
    svg: str
    published: Sequence[Published] = ()


def styles(cells: pd.DataFrame) -> dict[str, Style]:
    """A colour per method and a marker per label, the same for the whole report; what is published has none."""
    cells = cells[cells["source"] == "measured"]
    labels = sorted(set(zip(cells["method"], cells["label"], strict=True)))
    methods = sorted({m for m, _ in labels})
    return {
        label: Style(PALETTE[methods.index(method) % len(PALETTE)], MARKERS[number % len(MARKERS)])
        for number, (method, label) in enumerate(labels)
    }


def draw(ranked: pd.DataFrame, out: Path) -> list[Figure]:
    """Write every figure that the table has points for, as `out/STEM.svg`, `.png` and `.pdf`.

    Args:
        ranked: what `ranking.rank` returned.
    """
    out.mkdir(parents=True, exist_ok=True)
    looks = styles(ranked)
    made: list[Figure] = []
    stems: set[str] = set()
    for _, rows in ranked.groupby(SERIES, dropna=False, sort=False):
        records = as_rows(rows)
        for cost in DRAWN:
            known = (r for r in records if not missing(r[cost]) and not missing(r["value"]))
            points = [r for r in known if r["kind"] != "untouched"]
            if all(r["source"] != "measured" for r in points):
                continue
            first = records[0]
            stem = new_stem(stems, first["task"], first["subset"], first["metric"], cost)
            made.append(_draw_one(records, points, cost, looks, out, stem))
            if beside := published.panel(first, cost):
                stem = new_stem(stems, first["task"], first["subset"], first["metric"], "published")
                made.append(_draw_panel(first, beside, cost, out, stem))
    return made


def _draw_panel(first: dict[str, Any], points: Sequence[Published], cost: str, out: Path, stem: str) -> Figure:
    """What is published of the same kind as a series, under a protocol or on data of its own."""
    titles: dict[str, str] = {}

    def paint(axes: Axes) -> None:
        titles.update(published.paint(axes, points))
        cost_axis(axes, cost, first["family"], log=True)

    svg = write(paint, out, stem, published.about(points), titles)
    told = published.caption(points)
    return Figure(first["task"], first["subset"], first["metric"], first["protocol"], cost, told, stem, svg, points)


def _draw_one(
    records: list[dict[str, Any]],
    points: list[dict[str, Any]],
    cost: str,
    looks: dict[str, Style],
    out: Path,
    stem: str,
) -> Figure:
    first = records[0]
    told = [(float(r[cost]), r["value"], r["method"], _title(r, cost)) for r in points if r["source"] != "measured"]
    told = [(x, y, name.removesuffix(SUFFIX), title) for x, y, name, title in told]
    points = [r | {"gid": f"point-{n}"} for n, r in enumerate(p for p in points if p["source"] == "measured")]
    titles = {r["gid"]: _title(r, cost) for r in points}

    def paint(axes: Axes) -> None:
        floor_band(axes, points, cost)
        _front(axes, points, cost)
        for label in dict.fromkeys(r["label"] for r in points):
            with_whiskers(axes, [r for r in points if r["label"] == label], cost, looks[label])
        _ceiling(axes, [r for r in records if r["source"] == "measured"], points)
        titles.update(published.hollow(axes, told, [(float(r[cost]), r["value"]) for r in points]))
        _finish(axes, first, [float(r[cost]) for r in points] + [x for x, *_ in told], cost)

    about = basis(points, {first["metric"]: first["protocol"]})
    svg = write(paint, out, stem, about, titles)
    setting = setting_text(first)
    caption = f"{first['metric']} against {cost_name(cost, first['family'])}" + (f" ({setting})" if setting else "")
    return Figure(first["task"], first["subset"], first["metric"], first["protocol"], cost, caption, stem, svg)


def write(
    paint: Callable[[Axes], None], out: Path, stem: str, about: str, titles: Mapping[str, str], *, height: float = 4.0,
    wrap: int = 90,
) -> str:  # fmt: skip
    """Write a figure in all formats, the same bytes for the same figure, and return its SVG made fit for a page.

    Args:
        paint: draws on the axes; a legend names what it labels.
        about: small print above the axes, since a file for a paper leaves the page.
        titles: texts to hover on, by the id of what they belong to.
        height: in inches, where the width is 5.6 and the legend has three rows; wrap: letters in a line of small print.
    """
    face = plain_face()
    settings: Any = {**STYLE, "svg.hashsalt": stem}
    with mpl.rc_context(settings):
        canvas = Canvas(figsize=(WIDTH, height), layout="constrained")
        axes = canvas.subplots()
        paint(axes)
        axes.set_title(textwrap.fill(about, wrap), loc="left", fontsize=7, alpha=0.7)
        names = axes.get_legend_handles_labels()[1]
        columns = _columns(names)
        canvas.set_size_inches(WIDTH, height + 0.18 * max(0, ceil(len(names) / columns) - 3))
        canvas.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=8.5, handlelength=1.6)
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_ticklabels()  # makes them, so that they are found
        for text in canvas.findobj(Text):
            text.get_fontproperties().set_file(face)
        if layout := canvas.get_layout_engine():
            layout.execute(canvas)
        canvas.set_layout_engine("none")  # laid out once, for three formats
        drawn = _drawn(canvas)
    for form, data in drawn.items():  # another process may write the same report, or read it
        write_atomically(out / f"{stem}.{form}", data)
    return inline(drawn["svg"].decode("utf-8"), stem, titles)


def _columns(names: Sequence[str]) -> int:
    """As many columns of a legend, three at most, as fit beside each other; they are filled one after another."""
    for columns in (3, 2):
        longest = [max(part) for part in np.array_split([len(n) for n in names], columns) if len(part)]
        if sum(0.5 + 0.0615 * n for n in longest) <= WIDTH:  # inches: mark and gaps, and a letter of 8.5 points
            return columns
    return 1


def _drawn(canvas: Canvas) -> dict[str, bytes]:
    """Each format by its own backend: `savefig` would make the same bytes, and draw everything twice to do so."""
    made = {form: BytesIO() for form in ("svg", "pdf", "png")}
    FigureCanvasSVG(canvas).print_svg(made["svg"], metadata={"Date": None})
    FigureCanvasPdf(canvas).print_pdf(made["pdf"], metadata={"CreationDate": None})
    canvas.dpi = 150
    FigureCanvasAgg(canvas).print_png(made["png"])
    return {form: file.getvalue() for form, file in made.items()}


def basis(rows: Sequence[dict[str, Any]], protocols: Mapping[str, str]) -> str:
    """What the points of a figure rest on: the setting, counts (from the least to the most), protocols by metric."""
    counts = []
    for name, column in (("samples", "n"), ("clusters", "n_clusters")):
        low, high = (int(end(r[column] for r in rows)) for end in (min, max))
        counts.append(f"{low} {name}" if low == high else f"{low} to {high} {name}")
    named = ", ".join(f"{metric}: {protocol}" for metric, protocol in protocols.items())
    parts = [setting_text(rows[0]), *counts, "whiskers: 95% intervals", f"protocol of {named}"]
    return "; ".join(filter(None, parts))


# --------------------------------------------------------------------------------------------------------------- parts


def with_whiskers(axes: Axes, rows: list[dict[str, Any]], cost: str, look: Style) -> None:
    """The points of one label with their intervals."""
    x, y = [float(r[cost]) for r in rows], [float(r["value"]) for r in rows]
    axes.errorbar(x, y, yerr=whiskers(rows), fmt="none", ecolor=look.color, elinewidth=1, capsize=2, zorder=2)
    marks(axes, rows, cost, look)


def marks(axes: Axes, rows: list[dict[str, Any]], x: str, look: Style) -> None:
    """A mark for each row of one label; a cross marks what is infeasible or partial, hollow is what cannot be ranked.

    Args:
        x: the column across; `value` goes up.
    """
    for row in rows:
        hollow = row["illustrative"] or row["status"] != "complete"
        (marker,) = axes.plot(
            row[x], row["value"], look.marker, color=look.color, markersize=7, markeredgewidth=1.4, zorder=3,
            markerfacecolor=PAPER if hollow else look.color,
        )  # fmt: skip
        marker.set_gid(row["gid"])
        if row is rows[0]:
            marker.set_label(row["label"] + (" (floor)" if row["floor"] else ""))
    if crossed := [r for r in rows if r["status"] != "complete"]:
        at = [r[x] for r in crossed], [r["value"] for r in crossed]
        axes.plot(*at, "x", color=look.color, markersize=4, markeredgewidth=1.2, zorder=4)


def whiskers(
    rows: list[dict[str, Any]], value: str = "value", low: str = "ci_low", high: str = "ci_high"
) -> NDArray[np.float64]:
    """[2, rows] lengths below and above; NaN, hence not drawn, where there is no interval."""
    ends = [(r[value] - r[low], r[high] - r[value]) for r in rows]
    return np.clip(np.array(ends, dtype=np.float64).T, 0.0, None)


def _front(axes: Axes, points: list[dict[str, Any]], cost: str) -> None:
    """The front of the cells that are comparable; dashed where it rests on illustrative ones."""
    able = [r for r in points if r["status"] == "complete" and r["source"] == "measured" and not r["diagnostic"]]
    if len(able) < 2:
        return
    x, y = np.array([r[cost] for r in able], float), np.array([r["value"] for r in able], float)
    mask = front(x, y, higher_is_better=able[0]["sign"] > 0)
    order = np.argsort(x[mask])
    illustrative = any(r["illustrative"] for r, on in zip(able, mask, strict=True) if on)
    axes.plot(
        x[mask][order], y[mask][order], linestyle="--" if illustrative else "-", color=INK, alpha=0.55, linewidth=1.3,
        zorder=1, label="front (illustrative)" if illustrative else "front",
    )  # fmt: skip


def floor_band(axes: Axes, points: list[dict[str, Any]], cost: str) -> None:
    """From the lowest to the highest end of the floors' intervals, budget by budget."""
    groups: dict[tuple[object, ...], list[dict[str, Any]]] = {}
    for row in points:
        if row["floor"]:
            groups.setdefault(tuple(row[c] for c in BUDGET), []).append(row)
    if len(groups) < 2:
        return
    band = sorted(
        (
            float(np.mean([r[cost] for r in rows])),
            min(r["ci_low"] if not missing(r["ci_low"]) else r["value"] for r in rows),
            max(r["ci_high"] if not missing(r["ci_high"]) else r["value"] for r in rows),
        )
        for rows in groups.values()
    )
    x, low, high = zip(*band, strict=True)
    axes.fill_between(x, low, high, color="#808890", alpha=0.18, linewidth=0, zorder=0, label="floors")


def _ceiling(axes: Axes, records: list[dict[str, Any]], points: list[dict[str, Any]]) -> None:
    """The untouched cell as a line, or named at the edge where drawing it would flatten everything else."""
    values = [r["value"] for r in records if r["kind"] == "untouched" and not missing(r["value"])]
    if not values:
        return
    ceiling = float(np.mean(values))
    drawn = [r[end] for r in points for end in ("value", "ci_low", "ci_high") if not missing(r[end])]
    text = f"untouched: {show(ceiling, records[0]['unit'] or '')}"
    spread = max(max(drawn) - min(drawn), 1e-9)
    beyond = max(ceiling - max(drawn), min(drawn) - ceiling, 0.0)
    if beyond > 1.5 * spread:
        axes.plot([], [], " ", label=f"{text} (off the scale)")
        return
    axes.axhline(ceiling, color=INK, alpha=0.7, linewidth=1.1, linestyle=":", zorder=1, label=text)


def _finish(axes: Axes, first: dict[str, Any], costs: list[float], cost: str) -> None:
    cost_axis(axes, cost, first["family"], log=min(costs) > 0 and max(costs) / min(costs) > 6)
    score_axis(axes, first)


def cost_axis(axes: Axes, cost: str, family: str, *, log: bool) -> None:
    """The axis of a cost, and which way is better."""
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda x, _: show_cost(cost, x, exact=False))
    axes.set_xlabel(f"{cost_name(cost, family)} ({DRAWN[cost]} is better)")


def score_axis(axes: Axes, row: dict[str, Any]) -> None:
    """The axis of a score, which way is better, and the grid."""
    unit = f", {row['unit']}" if row["unit"] else ""
    way = "higher is better" if row["sign"] > 0 else "lower is better"
    axes.set_ylabel(f"{row['metric']}{unit} ({way})")
    if row["unit"] == "%":
        axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:.4g}")
    axes.grid(alpha=0.15, color=INK)
    axes.set_axisbelow(True)
    axes.margins(0.07)


def _title(row: dict[str, Any], cost: str) -> str:
    spent = f"{cost_name(cost, row['family'])}: {show_cost(cost, float(row[cost]))}"
    return hover(row, {row["metric"]: Estimate.of(row)}, spent)


def hover(row: dict[str, Any], estimates: Mapping[str, Estimate], *more: str) -> str:
    """What hovering on the point of a cell tells."""
    lines = [f"{row['label']} at {budget_text(row)}"]
    for name, e in estimates.items():
        lines += [f"{name}: {show(e.value, e.unit)}", f"95% interval: {e.interval}"]
    lines += [*more, Estimate.of(row).counts]
    lines += ["illustrative: too few clusters to rank"] if row["illustrative"] else []
    lines += [str(row["status"])] if row["status"] != "complete" else []
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------------------- page


def inline(svg: str, prefix: str, titles: Mapping[str, str]) -> str:
    """An SVG of matplotlib's made fit for a page: ids that cannot clash, titles to hover on, the page's own colours.

    Args:
        titles: text by the id of the group that it belongs to.
    """
    opening, _, body = svg[svg.index("<svg") :].partition(">")
    opening = re.sub(r'\s(?:width|height)="[^"]*"', "", opening)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    svg = f'{opening} role="img">{body}'.replace(INK, "currentColor").replace(PAPER, "var(--paper)")
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    for gid, text in titles.items():
        group = f'<g id="{prefix}-{gid}"'
        svg = svg.replace(f"{group}>", f'{group} class="point"><title>{escape(text)}</title>', 1)
    return svg
