"""Equal bits: what a codec would have scored with the bits that each point spent, and BD-rates of whole curves."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from ..results.store import write_atomically
from . import figures
from .figures import Figure, Style
from .printed import Estimate, budget_text, new_stem, setting_text, show
from .ranking import BUDGET, SERIES, as_rows, group, missing, number
from .rates import Curve, Difference, NoFigure, bd_rate, bd_score

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Match:
    """A codec at the bits of a point: its score there and what the point gains over it, or why there is none."""

    codec: str
    score: float
    gain: float
    why: str


@dataclass(frozen=True)
class Point:
    """One tokenizer at one budget, beside every other codec at its bits."""

    label: str
    floor: bool
    budget: str
    rate: float
    tokens: float
    estimate: Estimate
    status: str
    matches: tuple[Match, ...]

    def over(self, codec: str) -> Match | None:
        """The match with a codec; None with itself."""
        return next((m for m in self.matches if m.codec == codec), None)


@dataclass(frozen=True)
class Pair:
    """Bjontegaard's differences of a curve to an anchor, each a figure or the reason why there is none."""

    anchor: str
    label: str
    rate: Difference | None
    rate_why: str
    score: Difference | None
    score_why: str

    @property
    def why(self) -> str:
        """The reasons, once."""
        return "; ".join(dict.fromkeys(filter(None, (self.rate_why, self.score_why))))


@dataclass(frozen=True)
class EqualBits:
    """One metric of one task: `codecs` are the curves that others are held against."""

    task: str
    subset: str
    metric: str
    protocol: str
    unit: str
    higher_is_better: bool
    setting: str
    codecs: tuple[str, ...]
    points: tuple[Point, ...]
    pairs: tuple[Pair, ...]
    figure: Figure

    @property
    def refused(self) -> tuple[str, ...]:
        """Why some pairs have no figure at all, each reason once."""
        return tuple(dict.fromkeys(p.why for p in self.pairs if p.rate is None and p.score is None))

    @property
    def compared(self) -> tuple[Pair, ...]:
        """The pairs that have one."""
        return tuple(p for p in self.pairs if p.rate or p.score)


def explain(ranked: pd.DataFrame, out: Path) -> list[EqualBits]:
    """A part for every metric of a task whose bits are known, with its figure written to `out`.

    Codecs are tokenizers that count no tokens and are no floor; they, and whatever else has several rates, are curves.
    What cannot reach a budget counts with the bits that it did spend.

    Args:
        ranked: what `ranking.rank` returned.
    """
    looks, stems, found = figures.styles(ranked), set[str](), []
    rows = [r for r in as_rows(ranked) if r["kind"] == "tokenizer" and r["source"] == "measured"]
    known = [r for r in rows if not missing(r["value"]) and not missing(r["bits_per_pixel"])]
    for part in group(known, SERIES).values():
        points = [_averaged(seeds) for seeds in group(part, ["label", *BUDGET]).values()]
        curves = _curves(points)
        codecs = [r["label"] for r in points if missing(r["tokens_mean"]) and not r["floor"]]
        codecs = [label for label in dict.fromkeys(codecs) if len(curves[label].rates) > 1]
        if codecs and len(curves) > 1:
            found.append(_part(points, curves, codecs, looks, out, stems))
    return found


def _averaged(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    means = {name: fmean(r[name] for r in seeds) for name in ("value", "bits_per_pixel")}
    return seeds[0] | means | ({"ci_low": math.nan, "ci_high": math.nan} if len(seeds) > 1 else {})


def _curves(points: list[dict[str, Any]]) -> dict[str, Curve]:
    return {
        label: Curve.through(label, [(r["bits_per_pixel"], r["value"]) for r in own], own[0]["sign"])
        for (label,), own in group(points, ["label"]).items()
    }


def _part(
    rows: list[dict[str, Any]], curves: dict[str, Curve], codecs: Sequence[str], looks: dict[str, Style], out: Path,
    stems: set[str],
) -> EqualBits:  # fmt: skip
    first = rows[0]
    stem = new_stem(stems, first["task"], first["subset"], first["metric"], "equal_bits")
    points = [
        Point(
            r["label"], bool(r["floor"]), budget_text(r), r["bits_per_pixel"], number(r["tokens_mean"]), Estimate.of(r),
            r["status"], tuple(_match(r, curves[codec]) for codec in codecs if codec != r["label"]),
        )
        for r in rows
    ]  # fmt: skip
    points.sort(key=lambda p: (p.rate, p.label))
    order = [*codecs, *(label for label in curves if label not in codecs)]
    several = [curves[label] for label in order if len(curves[label].rates) > 1]
    return EqualBits(
        first["task"], first["subset"], first["metric"], first["protocol"], first["unit"] or "",
        bool(first["higher_is_better"]), setting_text(first), tuple(codecs), tuple(points),
        tuple(_pair(anchor, curve) for anchor, curve in combinations(several, 2)),
        _draw(rows, curves, codecs, looks, out, stem),
    )  # fmt: skip


def _match(row: dict[str, Any], codec: Curve) -> Match:
    try:
        score = codec.at(row["bits_per_pixel"])
    except NoFigure as why:
        return Match(codec.label, math.nan, math.nan, str(why))
    return Match(codec.label, score, row["sign"] * (row["value"] - score), "")


def _pair(anchor: Curve, curve: Curve) -> Pair:
    return Pair(anchor.label, curve.label, *_told(bd_rate, anchor, curve), *_told(bd_score, anchor, curve))


def _told(figure: Callable[[Curve, Curve], Difference], anchor: Curve, curve: Curve) -> tuple[Difference | None, str]:
    try:
        return figure(anchor, curve), ""
    except NoFigure as why:
        return None, str(why)


def _draw(
    rows: list[dict[str, Any]], curves: dict[str, Curve], codecs: Sequence[str], looks: dict[str, Style], out: Path,
    stem: str,
) -> Figure:  # fmt: skip
    """The codecs' curves between their points, and every point with its interval."""
    first = rows[0]
    points = [row | {"gid": f"point-{number}"} for number, row in enumerate(rows)]

    def paint(axes: Axes) -> None:
        for label in codecs:
            rates = np.geomspace(curves[label].rates[0], curves[label].rates[-1], 80)
            axes.plot(rates, curves[label].drawn(rates), color=looks[label].color, linewidth=1.2, alpha=0.8, zorder=1)
        for label in dict.fromkeys(r["label"] for r in points):
            figures.with_whiskers(axes, [r for r in points if r["label"] == label], "bits_per_pixel", looks[label])
        figures.cost_axis(axes, "bits_per_pixel", first["family"], log=True)
        figures.score_axis(axes, first)

    about = figures.basis(points, {first["metric"]: first["protocol"]})
    titles = {r["gid"]: figures.hover(r, {r["metric"]: Estimate.of(r)}) for r in points}
    svg = figures.write(paint, out, stem, about, titles)
    caption = f"{first['metric']} at equal bits: codecs as curves (PCHIP over log rate) between their points"
    return Figure(
        first["task"], first["subset"], first["metric"], first["protocol"], "bits_per_pixel", caption, stem, svg
    )


# --------------------------------------------------------------------------------------------------------------- tables


def percent(difference: Difference | None) -> str:
    """A BD-rate as printed."""
    return "–" if difference is None else f"{100 * difference.value:+.1f}%"


def gain(difference: Difference | None, unit: str) -> str:
    """A BD-score as printed."""
    return "–" if difference is None else show(difference.value, unit, gain_of=difference.value)


def write_tables(parts: Sequence[EqualBits], out: Path) -> list[Path]:
    """`equal_bits.csv`, a line per point and codec, and `bd_rate.csv`, a line per pair of curves; numbers in full."""
    if not parts:
        return []
    place = ["task", "subset", "setting", "metric", "protocol"]
    point = ["method", "budget", "bits_per_pixel", "tokens", "value", "ci_low", "ci_high"]
    equal: list[list[object]] = [[*place, *point, "codec", "codec_value", "gain", "why"]]
    ends = ["bd_rate", "low_score", "high_score", "why", "bd_score", "low_rate", "high_rate", "score_why"]
    pairs: list[list[object]] = [[*place, "anchor", "method", *ends]]
    for part in parts:
        told = [getattr(part, name) for name in place]
        for p in part.points:
            at = [*told, p.label, p.budget, p.rate, p.tokens, p.estimate.value, p.estimate.low, p.estimate.high]
            equal += [[*at, m.codec, m.score, m.gain, m.why] for m in p.matches]
        for pair in part.pairs:
            rate, score = (list(vars(d).values()) if d else [math.nan] * 3 for d in (pair.rate, pair.score))
            pairs.append([*told, pair.anchor, pair.label, *rate, pair.rate_why, *score, pair.score_why])
    written = []
    for name, lines in (("equal_bits.csv", equal), ("bd_rate.csv", pairs)):
        file = io.StringIO()
        csv.writer(file, lineterminator="\n").writerows([_blank(value) for value in line] for line in lines)
        write_atomically(out / name, file.getvalue())
        written.append(out / name)
    return written


def _blank(value: object) -> object:
    return "" if missing(value) else value
