"""The leaderboard as data: sections by task, for the page, for CSV and Markdown, and for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..metrics.statistics import Interval
from .printed import COSTS, Estimate, budget_text, cost_name, new_stem, setting_text, show, show_cost, text
from .ranking import as_rows, missing, number, rank, sentence

if TYPE_CHECKING:
    import pandas as pd

SET_SIZE = 10_000
"""Pictures below which a figure of a set says as much of their number as of the method."""
_VARYING = {"model": "model", "dtype": "dtype", "attention": "attention", "device": "device", "seed": "seed"}


@dataclass(frozen=True)
class MetricColumn:
    """One metric under one protocol: figures of different protocols never share a column."""

    metric: str
    protocol: str
    unit: str
    higher_is_better: bool

    @property
    def better(self) -> str:
        """Which way is better, in words."""
        return "higher is better" if self.higher_is_better else "lower is better"


@dataclass(frozen=True)
class Entry:
    """One score with what belongs to it."""

    estimate: Estimate
    illustrative: bool
    ceiling: float
    margin: Interval
    floor_label: str | None
    rank: int | None
    tied: bool
    unranked: str

    @property
    def place(self) -> str:
        """`2`, or `=2` for a tie, or empty."""
        return "" if self.rank is None else f"={self.rank}" if self.tied else str(self.rank)


@dataclass(frozen=True)
class Row:
    """One cell of the sweep, with its score under each metric of the section; costs are NaN where they do not apply."""

    cell_id: str
    label: str
    kind: str
    floor: bool
    diagnostic: bool
    verified: str
    budget: str
    budget_value: float
    varying: dict[str, str]
    costs: dict[str, float]
    entries: dict[MetricColumn, Entry]
    notes: tuple[str, ...]
    published: bool = False

    @property
    def illustrative(self) -> bool:
        """Whether too few clusters stand behind some of its scores."""
        return any(e.illustrative for e in self.entries.values())

    @property
    def remarks(self) -> tuple[str, ...]:
        """Its notes, and whether it is illustrative, for a table of plain text."""
        return ("illustrative", *self.notes) if self.illustrative else self.notes


@dataclass(frozen=True)
class Section:
    """All cells of one task and subset; `setting` is what they share of model, dtype, attention kernel and device."""

    task: str
    subset: str
    family: str
    setting: str
    columns: tuple[MetricColumn, ...]
    costs: tuple[str, ...]
    varying: tuple[str, ...]
    rows: tuple[Row, ...]
    caution: str
    slices: tuple[SliceRow, ...] = field(default=())


@dataclass(frozen=True)
class SliceRow:
    """A score over a part of the items."""

    label: str
    budget: str
    varying: dict[str, str]
    slice: str
    metric: str
    protocol: str
    estimate: Estimate


def sections(ranked: pd.DataFrame, cells: pd.DataFrame) -> list[Section]:
    """The leaderboard, a section per task and subset.

    Args:
        ranked: what `ranking.rank` returned.
        cells: the table it was made from, for the slices.
    """
    found = []
    for task, subset in dict.fromkeys(zip(ranked["task"], ranked["subset"], strict=True)):
        rows = ranked[(ranked["task"] == task) & (ranked["subset"] == subset)]
        columns = tuple(
            dict.fromkeys(
                MetricColumn(r["metric"], r["protocol"], r["unit"] or "", bool(r["higher_is_better"]))
                for r in as_rows(rows)
            )
        )
        rows = rows.assign(seed=telling_seeds(rows))
        varying = tuple(c for c in _VARYING if rows[c].nunique(dropna=False) > 1)
        costs = tuple(c for c in COSTS if any(not missing(v) for v in rows[c]))
        made = [_row(as_rows(part), columns, varying, costs) for _, part in rows.groupby("cell_id", sort=False)]
        scores = cells["slice"].notna() & (cells["metric_family"] != "evidence")
        parts = cells[(cells["task"] == task) & (cells["subset"] == subset) & scores]
        made.sort(key=_order)
        slices = tuple(_slice(r, varying) for r in as_rows(parts.assign(seed=telling_seeds(parts))))
        family = str(rows["family"].iloc[0])
        settings = list(dict.fromkeys(setting_text(r) for r in as_rows(rows)))
        setting = settings[0] if len(settings) == 1 else ""
        found.append(
            Section(task, subset, family, setting, columns, costs, varying, tuple(made), sentence(rows), slices)
        )
    return found


def _order(row: Row) -> tuple[bool, bool, float, float]:
    """Untouched cells first, then by budget, the best under the first metric on top; what has no value goes last, and
    what is published behind what was measured."""
    column, entry = next(iter(row.entries.items()))
    goodness = entry.estimate.value if column.higher_is_better else -entry.estimate.value
    budget = 0.0 if math.isnan(row.budget_value) else row.budget_value
    return row.published, row.kind != "untouched", budget, math.inf if math.isnan(goodness) else -goodness


def telling_seeds(rows: pd.DataFrame) -> pd.Series[Any]:
    """The seeds of methods that ran with several; of the others a seed says nothing."""
    several = rows.groupby("label")["seed"].transform("nunique") > 1
    return rows["seed"].astype(object).where(several, None)


def _row(
    records: list[dict[str, Any]], columns: Sequence[MetricColumn], varying: Sequence[str], costs: Sequence[str]
) -> Row:
    first = records[0]
    entries = {}
    for r in records:
        column = next(c for c in columns if (c.metric, c.protocol) == (r["metric"], r["protocol"]))
        entries[column] = Entry(
            Estimate.of(r), bool(r["illustrative"]), r["ceiling"],
            Interval(r["margin"], r["margin_low"], r["margin_high"]), text(r["floor_label"]) or None,
            None if math.isnan(r["rank"]) else int(r["rank"]), bool(r["tied"]), r["unranked"],
        )  # fmt: skip
    return Row(
        first["cell_id"], first["label"], first["kind"], bool(first["floor"]), bool(first["diagnostic"]),
        text(first["verified"]),
        budget_text(first), number(first["budget_value"]), _varying(first, varying),
        {c: number(first[c]) for c in costs}, entries, notes(records), first["source"] != "measured",
    )  # fmt: skip


def _varying(row: dict[str, Any], columns: Sequence[str]) -> dict[str, str]:
    return {_VARYING[c]: text(row[c]) for c in columns}


def notes(records: list[dict[str, Any]]) -> tuple[str, ...]:
    """What limits the scores of one cell, from its rows, one per metric."""
    first, found = records[0], []
    counts = {k: 0 if missing(first[k]) else int(first[k]) for k in ("n_failed", "n_infeasible", "n_bad_input")}
    if first["source"] != "measured":
        found.append(f"{first['source']}, not measured here")
    if counts["n_failed"]:
        found.append(f"{counts['n_failed']} failed, counted as worst")
    if counts["n_infeasible"]:
        lowest = number(first["lowest_rate"])
        reach = "" if math.isnan(lowest) else f"; all fit from {show_cost('bits_per_pixel', lowest)} bpp"
        found.append(f"infeasible: {counts['n_infeasible']} above the budget at the lowest rate{reach}")
    if counts["n_bad_input"]:
        found.append(f"{counts['n_bad_input']} bad input")
    whole = [r["metric"] for r in records if r.get("comparable") is False]
    if whole:
        found.append(f"not comparable: {', '.join(whole)} (defined on the whole set)")
    sets = [r for r in records if text(r.get("aggregation")).startswith("set ") and r["n_items"] < SET_SIZE]
    if sets and first["kind"] != "untouched":
        found.append(f"figures of sets: of {min(int(r['n_items']) for r in sets)} pictures, {SET_SIZE} are usual")
    if not missing(first.get("n_alone")):
        found.append(f"{int(first['n_flips'])} of {int(first['n_alone'])} answers are others when asked one by one")
    if not missing(first["latency_error"]):
        found.append(f"not timed: {first['latency_error']}")
    for status in dict.fromkeys(r["status"] for r in records):
        if status == "partial":
            found.append("partial: samples are still missing")
        if status == "incomplete":
            found.append("incomplete: a failure has no worst value here, so there is no score")
    return tuple(found)


def _slice(r: dict[str, Any], varying: Sequence[str]) -> SliceRow:
    return SliceRow(
        r["label"], budget_text(r), _varying(r, varying), r["slice"], r["metric"], r["protocol"], Estimate.of(r)
    )


# --------------------------------------------------------------------------------------------------------------- files


def write_tables(ranked: pd.DataFrame, cells: pd.DataFrame, leaderboard: Sequence[Section], out: Path) -> list[Path]:
    """`cells.csv` (every row, slices included, numbers in full), `leaderboard.csv` (headline rows with ceiling, margin
    and rank), and a Markdown table per task."""
    out.mkdir(parents=True, exist_ok=True)
    written = [out / "cells.csv", out / "leaderboard.csv"]
    cells.to_csv(written[0], index=False)
    ranked.drop(columns="sign").to_csv(written[1], index=False)
    stems: set[str] = set()
    for section in leaderboard:
        path = out / f"{new_stem(stems, section.task, section.subset)}.md"
        path.write_text(markdown(section), encoding="utf-8")
        written.append(path)
    return written


def markdown(section: Section) -> str:
    """One section as a Markdown table with its caution."""
    head, rows = plain(section)
    lines = [f"# {section.task} ({section.subset})", ""]
    if section.caution:
        lines += [section.caution, ""]
    lines += markdown_table(head, rows)
    lines += [""] + [f"- {c.metric}: {c.better}; protocol {_cell(c.protocol)}" for c in section.columns]
    return "\n".join(lines) + "\n"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table; what would be markup in a cell is escaped."""
    lines = ["| " + " | ".join(map(_cell, head)) + " |", "|" + " --- |" * len(head)]
    return lines + ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def plain(section: Section) -> tuple[list[str], list[list[str]]]:
    """Heading and rows as text, for Markdown and for the terminal's summary."""
    head = [
        "method",
        "budget",
        *(_VARYING[c] for c in section.varying),
        *(cost_name(c, section.family) for c in section.costs),
    ]
    for c in section.columns:
        head += [f"{c.metric}{f', {c.unit}' if c.unit else ''} {'↑' if c.higher_is_better else '↓'}", "rank"]
    head += ["n / clusters", "notes"]
    rows = []
    for row in section.rows:
        line = [f"{row.label}{' (floor)' if row.floor else ''}", row.budget, *row.varying.values()]
        line += [show_cost(c, row.costs[c]) for c in section.costs]
        for column in section.columns:
            entry = row.entries.get(column)
            line += ["–", ""] if entry is None else [_score(entry), entry.place or "–"]
        line += [_n(next(iter(row.entries.values()))), "; ".join(row.remarks)]
        rows.append(line)
    return head, rows


def summary_rows(cells: pd.DataFrame) -> list[dict[str, object]]:
    """A row per cell for the terminal: its first metric with interval and ceiling, the others in brief.

    Raises:
        UserError: nothing has been scored.
    """
    rows: list[dict[str, object]] = []
    for section in sections(rank(cells), cells):
        for row in section.rows:
            (first, headline), *others = row.entries.items()
            rows.append(
                {
                    "task": section.task,
                    "method": row.label + (" (floor)" if row.floor else ""),
                    "budget": " ".join([row.budget, *(f"{k} {v}" for k, v in row.varying.items() if v)]),
                    "spent": _spent(row),
                    "score": f"{first.metric} {_score(headline)}",
                    "untouched": show(headline.ceiling, first.unit),
                    "others": ", ".join(f"{c.metric} {_score(e)}" for c, e in others) or None,
                    "rank": headline.place or None,
                    "n / clusters": _n(headline),
                    "notes": "; ".join(row.remarks) or None,
                }
            )
    return rows


def _spent(row: Row) -> str | None:
    """What the row spent: bits per pixel, or tokens."""
    for name, unit in (("bits_per_pixel", "bpp"), ("tokens_mean", "tokens")):
        if not math.isnan(row.costs.get(name, math.nan)):
            return f"{show_cost(name, row.costs[name])} {unit}"
    return None


def _score(entry: Entry) -> str:
    e = entry.estimate
    if math.isnan(e.value):
        return "–"
    return show(e.value, e.unit) + ("" if math.isnan(e.low) else f" [{show(e.low, e.unit)}, {show(e.high, e.unit)}]")


def _n(entry: Entry) -> str:
    if not entry.estimate.n_clusters and not math.isnan(entry.estimate.value):
        return "–"
    return f"{entry.estimate.n} / {entry.estimate.n_clusters}"
