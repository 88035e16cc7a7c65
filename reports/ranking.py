"""What a score means beside the others: ceiling, best floor, rank; and why a cell is not ranked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..harness.contracts import UserError
from ..results.records import ILLUSTRATIVE_BELOW

if TYPE_CHECKING:
    import pandas as pd

SETTING = ["task", "subset", "model", "model_revision", "dtype", "attention", "device"]
"""Cells that differ in one of these have no common ceiling, floor or rank, and no common figure."""
SERIES = [*SETTING, "metric", "protocol"]
BUDGET = ["budget_value", "budget_unit", "budget_convention"]
Key = tuple[Any, ...]


def rank(cells: pd.DataFrame) -> pd.DataFrame:
    """The headline rows (slice null) of a table of cells, with what a reader compares them to; of scores only.

    Columns added:
        ceiling: the untouched cell's value, same metric and protocol; NaN where there is none.
        floor_label, floor_value: the best floor at the same budget, averaged over its seeds.
        margin: how far the value is better than the best floor, in units of the metric, positive is better.
        margin_low, margin_high: NaN here; `margins.with_intervals` knows them from the samples.
        rank: 1 plus the number of cells at the same budget whose intervals lie wholly on the better side; NaN where
            unranked. Cells of overlapping intervals are ties.
        tied: shares its rank.
        unranked: why there is no rank; empty for ranked cells.

    Only complete, feasible, measured cells of at least 30 clusters are ranked, within one task, subset, metric,
    protocol, model and budget. Floors and untouched cells are references and take no rank.

    Raises:
        UserError: no row at all.
    """
    import pandas as pd

    headline = cells[cells["slice"].isna() & (cells["metric_family"] != "evidence")]
    if headline.empty:
        raise UserError("There is nothing to report: no sample has been scored; run `toksweep sweep` first.")
    rows = as_rows(headline)
    for row in rows:
        row |= {name: number(row[name]) for name in ("value", "ci_low", "ci_high")}
        row["sign"] = 1.0 if row["higher_is_better"] else -1.0
        row["unranked"] = _why_unranked(row)
    _set_ceilings(rows)
    _set_floors(rows)
    _set_ranks(rows)
    return pd.DataFrame(rows)


def as_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as mappings."""
    return [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]


def missing(value: object) -> bool:
    """None or NaN: a table of cells has either."""
    return value is None or value != value


def number(value: object) -> float:
    """A number of a table of cells; NaN where it is missing."""
    return math.nan if missing(value) else float(value)  # type: ignore[arg-type]


def group(rows: Iterable[dict[str, Any]], columns: Sequence[str]) -> dict[Key, list[dict[str, Any]]]:
    """Rows by what these columns hold."""
    groups: dict[Key, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(key_of(row, columns), []).append(row)
    return groups


def key_of(row: dict[str, Any], columns: Sequence[str]) -> Key:
    """What these columns hold in a row; None where it is missing."""
    return tuple(None if missing(row[c]) else row[c] for c in columns)


def _why_unranked(row: dict[str, Any]) -> str:
    if row["kind"] == "untouched":
        return "reference"
    if row["floor"]:
        return "floor"
    if row["diagnostic"]:
        return "diagnostic"
    if row["source"] != "measured":
        return "published elsewhere"
    if row["status"] != "complete":
        return str(row["status"])
    if row["illustrative"]:
        return "illustrative"
    if row["kind"] == "tokenizer" and missing(row["budget_value"]):
        return "fixed rate"
    if missing(row["value"]):
        return "no value"
    return "no interval" if missing(row["ci_low"]) else ""


def _set_ceilings(rows: list[dict[str, Any]]) -> None:
    untouched = group((r for r in rows if r["kind"] == "untouched" and not missing(r["value"])), SERIES)
    for row in rows:
        found = untouched.get(key_of(row, SERIES))
        row["ceiling"] = fmean(r["value"] for r in found) if found else math.nan


def _set_floors(rows: list[dict[str, Any]]) -> None:
    """The best floor of every budget; only complete ones count."""
    able = (r for r in rows if r["floor"] and r["status"] == "complete" and not missing(r["value"]))
    floors = group(able, [*SERIES, *BUDGET])
    for row in rows:
        row |= {"floor_label": None, "floor_value": math.nan, "margin": math.nan}
        row |= {"margin_low": math.nan, "margin_high": math.nan}
        found = floors.get(key_of(row, [*SERIES, *BUDGET]))
        if row["floor"] or row["kind"] == "untouched" or not found:
            continue
        means = {label: fmean(r["value"] for r in seeds) for (label,), seeds in group(found, ["label"]).items()}
        row["floor_label"] = max(means, key=lambda label: row["sign"] * means[label])
        row["floor_value"] = means[row["floor_label"]]
        row["margin"] = row["sign"] * (row["value"] - row["floor_value"])


def _set_ranks(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        row |= {"rank": math.nan, "tied": False}
    for rivals in group((r for r in rows if not r["unranked"]), [*SERIES, *BUDGET]).values():
        for row in rivals:
            row["rank"] = 1 + sum(_is_clearly_better(other, row) for other in rivals)
        for row in rivals:
            row["tied"] = sum(other["rank"] == row["rank"] for other in rivals) > 1


def _is_clearly_better(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """The whole interval of a lies on the better side of the whole interval of b."""
    return bool(a["ci_low"] > b["ci_high"] if a["sign"] > 0 else a["ci_high"] < b["ci_low"])


def sentence(rows: pd.DataFrame) -> str:
    """Why nothing, or not everything, of a task is ranked, in plain words; empty where all is said by the ranks."""
    few = rows[rows["illustrative"].astype(bool)]
    if few.empty:
        return ""
    most = int(few["n_clusters"].max())
    pictures = "source picture or clip stands" if most == 1 else "source pictures or clips stand"
    return (
        f"Illustrative: at most {most} {pictures} behind these scores, and {ILLUSTRATIVE_BELOW} are needed to rank "
        "methods. The figures are true for these samples and say little about others, so nothing here is ranked."
    )
