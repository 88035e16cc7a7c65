"""Where the time goes: what each method spends on choosing, and what it saves by it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import figures
from .figures import PALETTE, Figure, Style
from .printed import budget_text, new_stem, setting_text, show_cost, text
from .ranking import BUDGET, SETTING, as_rows, missing, number
from .tables import markdown_table, notes, telling_seeds

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

PHASES = {"vision": "vision", "compressor": "compressor", "prefill": "prefill", "tpot": "decode, per token"}
"""Phases of an answer in the order in which they pass, as a table's and a legend's words."""
COLOURS = dict(zip(PHASES, (PALETTE[0], PALETTE[1], PALETTE[2], PALETTE[4]), strict=True))


@dataclass(frozen=True)
class Spread:
    """Median and quartiles; NaN where there are none."""

    median: float
    low: float
    high: float
    of: str = "latency_ms"

    @classmethod
    def read(cls, row: dict[str, Any], name: str) -> Spread:
        """Milliseconds of a phase in a row of the table of cells."""
        return cls(number(row[f"{name}_ms"]), number(row[f"{name}_q1_ms"]), number(row[f"{name}_q3_ms"]))

    @property
    def middle(self) -> str:
        """`18.4`"""
        return show_cost(self.of, self.median)

    @property
    def quartiles(self) -> str:
        """`17.9 to 18.8`, or nothing."""
        return "" if math.isnan(self.low) else f"{show_cost(self.of, self.low)} to {show_cost(self.of, self.high)}"


@dataclass(frozen=True)
class Timed:
    """One cell: time to the first token, its ratio to full tokens, and phases timed apart.

    `flops` and `kept` are FLOPs to the first token and mean tokens, as shares of full ones; `pays_from` is the fewest
    tokens that must be saved for choosing to pay, or `never`, with `why`.
    """

    label: str
    kind: str
    budget: str
    budget_value: float
    seed: str
    first: Spread
    ratio: Spread
    phases: Mapping[str, Spread]
    flops: float
    kept: float
    kv_bytes: float
    peak_bytes: float
    pays_from: str
    why: str
    illustrative: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Latency:
    """All cells of one task and setting that were timed by phases."""

    task: str
    subset: str
    setting: str
    basis: str
    verdict: str
    answer_tokens: int
    rows: tuple[Timed, ...]
    figures: tuple[Figure, ...]

    @property
    def seeds(self) -> bool:
        """Did any method run with several?"""
        return any(row.seed for row in self.rows)

    @property
    def peaks(self) -> bool:
        """Could peaks of memory be read?"""
        return any(not math.isnan(row.peak_bytes) for row in self.rows)


def explain(ranked: pd.DataFrame, out: Path) -> list[Latency]:
    """A section for every task whose cells were timed by phases, with its figures written to `out`.

    Args:
        ranked: what `ranking.rank` returned.
    """
    looks, stems, found = figures.styles(ranked), set[str](), []
    for _, part in ranked.groupby(SETTING, dropna=False, sort=False):
        part = part[part["metric"] == part["metric"].iloc[0]]
        rows = as_rows(part.assign(seed=telling_seeds(part)))
        if any(not missing(r["prefill_ms"]) for r in rows):
            known = [r for r in rows if not missing(r["latency_ms"]) or not missing(r["latency_error"])]
            found.append(_section(known, looks, out, stems))
    return found


def _section(rows: list[dict[str, Any]], looks: dict[str, Style], out: Path, stems: set[str]) -> Latency:
    full = next((r for r in rows if r["kind"] == "untouched"), None)
    timed = [_timed(r, full) for r in rows]
    first = next(r for r in rows if not missing(r["prefill_ms"]))
    samples, rounds = int(first["latency_samples"]), int(first["latency_rounds"])
    plural = "s" if samples > 1 else ""
    basis = f"{first['latency_device']}; batch 1; {rounds} rounds on {samples} sample{plural}"
    drawn = []
    if full is not None and any(not math.isnan(t.ratio.median + t.flops) and t.kind != "untouched" for t in timed):
        drawn.append(_draw_shares(rows, timed, basis, looks, out, new_stem(stems, *_place(first), "latency-flops")))
    for _, group in _by_budget(rows, timed):
        title = f"latency-{group[-1].budget}"
        drawn.append(_draw_phases(first, group, basis, out, new_stem(stems, *_place(first), title)))
    timed.sort(key=lambda t: (t.kind != "untouched", t.budget_value, t.first.median))
    return Latency(
        *_place(first), setting_text(first), basis, _verdict(timed), int(number(first["answer_tokens"])), tuple(timed),
        tuple(drawn),
    )  # fmt: skip


def _setting(row: dict[str, Any]) -> str:
    """As `setting_text`, without the device, which the basis names in full."""
    return setting_text(row | {"device": None})


def _place(row: dict[str, Any]) -> tuple[str, str]:
    return row["task"], row["subset"]


def _timed(row: dict[str, Any], full: dict[str, Any] | None) -> Timed:
    why = text(row["break_even_reason"])
    tokens = number(row["break_even_tokens"])
    middle, low, high = (number(row[f"latency_ratio{end}"]) for end in ("", "_q1", "_q3"))
    phases = {name: Spread.read(row, name) for name in PHASES}
    return Timed(
        row["label"], row["kind"], budget_text(row), number(row["budget_value"]), text(row["seed"]),
        Spread.read(row, "latency"), Spread(middle, low, high, "ratio"), phases,
        number(row["flops"]) / number(full["flops"]) if full else math.nan,
        number(row["tokens_mean"]) / number(row["tokens_full"]), number(row["kv_bytes"]),
        number(row["peak_memory_bytes"]),
        "never" if why.startswith("never") else "" if math.isnan(tokens) else f"{tokens:.0f}",
        why.removeprefix("never: "), bool(row["illustrative"]), notes([row]),
    )  # fmt: skip


def _verdict(timed: Sequence[Timed]) -> str:
    """Who reaches the first token sooner than full tokens, and who does not, by the quartiles of the ratio."""
    known = [t for t in timed if t.kind != "untouched" and not math.isnan(t.ratio.low)]
    if not known:
        return ""
    sooner = [t for t in known if t.ratio.high < 1]
    told = f"{len(sooner)} of {len(known)} cells reach the first token sooner than full tokens"
    for words, cells in (
        ("later", [t for t in known if t.ratio.low > 1]),
        ("neither clearly sooner nor later", [t for t in known if t.ratio.low <= 1 <= t.ratio.high]),
    ):
        if cells:
            named = list(dict.fromkeys(f"{t.label} at {t.budget}" for t in cells))
            more = f" and {len(named) - 8} more" if len(named) > 8 else ""
            told += f"; {words}: {', '.join(named[:8])}{more}"
    return told + "."


def _by_budget(rows: list[dict[str, Any]], timed: list[Timed]) -> list[tuple[tuple[object, ...], list[Timed]]]:
    """The cells of each budget that were timed by phases, full tokens first, the quickest last; of seeds the first."""
    full = [t for t in timed if t.kind == "untouched" and _complete(t)]
    groups: dict[tuple[object, ...], dict[str, Timed]] = {}
    for row, t in zip(rows, timed, strict=True):
        if t.kind != "untouched" and _complete(t):
            groups.setdefault(tuple(row[c] for c in BUDGET), {}).setdefault(t.label, t)
    return [(key, [*full, *sorted(g.values(), key=lambda t: -t.first.median)]) for key, g in groups.items()]


def _complete(timed: Timed) -> bool:
    return not any(math.isnan(part.median) for part in timed.phases.values())


# -------------------------------------------------------------------------------------------------------------- figures


def _draw_phases(first: dict[str, Any], group: list[Timed], basis: str, out: Path, stem: str) -> Figure:
    """Stacked bars, one per method: the phases to the first token, and one output token behind it."""
    budget, titles = group[-1].budget, {}
    for number_, t in enumerate(group):
        for name, words in PHASES.items():
            part = t.phases[name]
            titles[f"bar-{number_}-{name}"] = f"{t.label}\n{words}: {part.middle} ms\nquartiles: {part.quartiles}"

    def paint(axes: Axes) -> None:
        widest = max(sum(p.median for p in t.phases.values()) for t in group)
        for line, t in enumerate(group):
            start = 0.0
            for name, words in PHASES.items():
                (bar,) = axes.barh(
                    line, t.phases[name].median, left=start, height=0.68, color=COLOURS[name], linewidth=0,
                    label=words if line == 0 else None,
                )  # fmt: skip
                bar.set_gid(f"bar-{line}-{name}")
                start += t.phases[name].median
            axes.errorbar(
                t.first.median, line, xerr=[[t.first.median - t.first.low], [t.first.high - t.first.median]], fmt="D",
                markersize=3.4, color=figures.INK, elinewidth=1, capsize=2,
                label="first token, timed as a whole" if line == 0 else None,
            )  # fmt: skip
            if t.kind != "untouched" and not math.isnan(t.ratio.median):
                told = f"time ×{t.ratio.middle}, FLOPs ×{show_cost('ratio', t.flops)}"
                end = max(start, t.first.high) + 0.02 * widest
                axes.text(end, line, told, va="center", fontsize=7.5)
        axes.set_yticks(range(len(group)), [t.label for t in group])
        axes.set_xlim(0, 1.45 * widest)
        axes.set_xlabel("milliseconds (less is better)")
        axes.grid(alpha=0.15, color=figures.INK, axis="x")
        axes.set_axisbelow(True)

    about = f"{_setting(first)}; {basis}; medians of phases, timed apart from the whole; whiskers: quartiles"
    svg = figures.write(paint, out, stem, about, titles, height=1.7 + 0.26 * len(group), wrap=84)
    caption = f"Where the time goes at {budget} ({setting_text(first)})"
    return Figure(*_place(first), first["metric"], first["protocol"], "latency", caption, stem, svg)


def _draw_shares(
    rows: list[dict[str, Any]], timed: list[Timed], basis: str, looks: dict[str, Style], out: Path, stem: str
) -> Figure:
    """Time to the first token against FLOPs, both as shares of full tokens', a point per cell."""
    points: list[tuple[str, Timed, str]] = []
    titles = {}
    for row, t in zip(rows, timed, strict=True):
        if t.kind != "untouched" and not math.isnan(t.ratio.median + t.flops):
            gid = f"point-{len(points)}"
            points.append((row["label"], t, gid))
            titles[gid] = (
                f"{t.label} at {t.budget}\nFLOPs ×{t.flops:.3f}\ntime ×{t.ratio.middle} ({t.ratio.quartiles})\n"
                f"compressor: {t.phases['compressor'].middle} ms"
            )

    def paint(axes: Axes) -> None:
        for label in dict.fromkeys(name for name, _, _ in points):
            own, look = [(t, gid) for name, t, gid in points if name == label], looks[label]
            for t, gid in own:
                below, above = t.ratio.median - t.ratio.low, t.ratio.high - t.ratio.median
                axes.errorbar(
                    t.flops, t.ratio.median, yerr=[[below], [above]], fmt="none", ecolor=look.color, elinewidth=0.8,
                    alpha=0.6,
                )  # fmt: skip
                (mark,) = axes.plot(
                    t.flops, t.ratio.median, look.marker, color=look.color, markersize=6,
                    label=label if t is own[0][0] else None,
                )  # fmt: skip
                mark.set_gid(gid)
        top = max(1.05, *(t.ratio.high for _, t, _ in points))
        axes.plot(
            [0, 1], [0, 1], linestyle="--", color=figures.INK, alpha=0.5, linewidth=1, label="time falls as FLOPs do"
        )
        axes.axhline(1.0, color=figures.INK, alpha=0.7, linewidth=1, linestyle=":", label="full tokens")
        axes.set_xlim(0, max(1.05, *(1.05 * t.flops for _, t, _ in points)))
        axes.set_ylim(0, 1.05 * top)
        axes.set_xlabel("FLOPs to the first token, as a share of full tokens' (less is better, in both)")
        axes.set_ylabel("time to the first token, as a share")
        axes.grid(alpha=0.15, color=figures.INK)
        axes.set_axisbelow(True)

    first = rows[0]
    svg = figures.write(paint, out, stem, f"{_setting(first)}; {basis}; whiskers: quartiles", titles)
    caption = f"Which FLOPs saved are time saved ({setting_text(first)})"
    return Figure(*_place(first), first["metric"], first["protocol"], "latency", caption, stem, svg)


# --------------------------------------------------------------------------------------------------------------- tables


def write_tables(sections: Sequence[Latency], out: Path) -> list[Path]:
    """A Markdown table per section, as `TASK-SUBSET-latency.md`."""
    written, stems = [], set[str]()
    for section in sections:
        path = out / f"{new_stem(stems, section.task, section.subset, 'latency')}.md"
        path.write_text(markdown(section), encoding="utf-8")
        written.append(path)
    return written


def markdown(section: Latency) -> str:
    """One section as a Markdown table, medians with their quartiles."""
    head = ["method", "budget", *(["seed"] if section.seeds else []), "first token, ms", "ratio to full", "FLOPs ratio"]
    head += [f"{words}, ms" for words in PHASES.values()]
    head += ["KV cache, MB", *(["peak memory, MB"] if section.peaks else []), "pays from, tokens saved", "notes"]
    lines = [f"# Latency: {section.task} ({section.subset})", "", f"{section.setting}; {section.basis}.", ""]
    rows = []
    for row in section.rows:
        cells = [row.label, row.budget, *([row.seed] if section.seeds else []), _both(row.first), _both(row.ratio)]
        cells += [show_cost("ratio", row.flops), *(_both(part) for part in row.phases.values())]
        cells += [megabytes(row.kv_bytes), *([megabytes(row.peak_bytes)] if section.peaks else [])]
        cells += [f"{row.pays_from or '–'}{f' ({row.why})' if row.why else ''}", "; ".join(row.notes)]
        rows.append(cells)
    return "\n".join([*lines, *markdown_table(head, rows), "", section.verdict]).rstrip() + "\n"


def _both(spread: Spread) -> str:
    return f"{spread.middle} [{spread.quartiles}]" if spread.quartiles else spread.middle


def megabytes(size: float) -> str:
    """Bytes as megabytes (a million)."""
    return show_cost("megabytes", size / 1e6)
