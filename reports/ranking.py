"""What a score means beside the others: ceiling, best floor, rank; and why a cell is not ranked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..harness.contracts import UserError
from ..results.records import ILLUSTRATIVE_BELOW

if TYPE_CHECKING:
    import pandas as pd

SETTING = ["task", "subset", "model", "model_revision", "dtype", "attention", "device"]
"""Cells that differ in one of these have no common ceiling, floor or rank, and no common figure."""
SERIES = [*SETTING, "metric", "protocol"]
BUDGET = ["budget_value", "budget_unit", "budget_convention"]


def rank(cells: pd.DataFrame) -> pd.DataFrame:
    """The headline rows (slice null) of a table of cells, with what a reader compares them to.

    Columns added:
        ceiling: the untouched cell's value, same metric and protocol; NaN where there is none.
        floor_label, floor_value: the best floor at the same budget, averaged over its seeds.
        margin: how far the value is better than the best floor, in units of the metric, positive is better.
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

    if cells.empty or not cells["slice"].isna().any():
        raise UserError("There is nothing to report: no sample has been scored; run `toksweep sweep` first.")
    rows = cells[cells["slice"].isna()].reset_index(drop=True).copy()
    for column in ("value", "ci_low", "ci_high"):
        rows[column] = pd.to_numeric(rows[column]).astype(float)
    rows["sign"] = rows["higher_is_better"].map(lambda better: 1.0 if better else -1.0)
    rows["unranked"] = [_why_unranked(row) for row in as_rows(rows)]
    rows = _beside_ceiling(rows)
    rows = _beside_floor(rows)
    return _ranked(rows)


def as_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as mappings."""
    return [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]


def _why_unranked(row: dict[str, Any]) -> str:
    if row["kind"] == "untouched":
        return "reference"
    if row["floor"]:
        return "floor"
    if row["source"] != "measured":
        return "published elsewhere"
    if row["status"] != "complete":
        return str(row["status"])
    if row["illustrative"]:
        return "illustrative"
    return "no value" if row["value"] != row["value"] else ""


def _beside_ceiling(rows: pd.DataFrame) -> pd.DataFrame:
    untouched = rows[rows["kind"] == "untouched"]
    ceilings = untouched.groupby(SERIES, dropna=False)["value"].mean().rename("ceiling").reset_index()
    return rows.merge(ceilings, on=SERIES, how="left")


def _beside_floor(rows: pd.DataFrame) -> pd.DataFrame:
    key = [*SERIES, *BUDGET]
    floors = rows[rows["floor"].astype(bool) & (rows["status"] == "complete") & rows["value"].notna()]
    floors = floors.groupby([*key, "label", "sign"], dropna=False)["value"].mean().reset_index()
    floors["goodness"] = floors["value"] * floors["sign"]
    best = floors.sort_values("goodness", ascending=False).drop_duplicates(key)
    best = best.rename(columns={"value": "floor_value", "label": "floor_label"})
    rows = rows.merge(best[[*key, "floor_value", "floor_label"]], on=key, how="left")
    rows["margin"] = (rows["value"] - rows["floor_value"]) * rows["sign"]
    rows.loc[rows["floor"].astype(bool) | (rows["kind"] == "untouched"), "margin"] = float("nan")
    return rows


def _ranked(rows: pd.DataFrame) -> pd.DataFrame:
    rows["rank"], rows["tied"] = float("nan"), False
    for _, group in rows[rows["unranked"] == ""].groupby([*SERIES, *BUDGET], dropna=False):
        better = group["sign"].iloc[0] > 0
        near = group["ci_low"] if better else -group["ci_high"]
        far = group["ci_high"] if better else -group["ci_low"]
        places = [1 + int((near > end).sum()) for end in far]
        rows.loc[group.index, "rank"] = places
        rows.loc[group.index, "tied"] = [places.count(place) > 1 for place in places]
    return rows


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
