"""The margin over the best floor with an interval of its own: both on the same samples, resampled together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..metrics.statistics import combine
from .ranking import BUDGET, SERIES, as_rows, group, key_of, missing
from .scores import Resamples, score_key

if TYPE_CHECKING:
    import pandas as pd


def with_intervals(ranked: pd.DataFrame, resamples: Resamples) -> pd.DataFrame:
    """The table with `margin_low` and `margin_high`: a paired cluster bootstrap against the floor that `rank` chose.

    The margin itself is that of the samples which both sides have; of complete cells it stays what it was. Which floor
    is best is taken as given: the interval does not show how easily another one might have been.

    Args:
        ranked: what `ranking.rank` returned.
    """
    import pandas as pd

    rows = as_rows(ranked)
    columns = [*SERIES, *BUDGET, "label"]
    floors = group((r for r in rows if r["floor"] and r["status"] == "complete"), columns)
    for row in rows:
        seeds = [] if missing(row["margin"]) else floors[key_of(row | {"label": row["floor_label"]}, columns)]
        sides = [[score_key(row)], [score_key(r) for r in seeds]]
        if not seeds or not all(key in resamples for side in sides for key in side):
            continue
        means = resamples.of(sides)
        if means is None:
            continue
        better, worse = means.sides if row["sign"] > 0 else reversed(means.sides)
        margin = combine(lambda values: np.asarray(values[..., 0] - values[..., 1]), better, worse).interval()
        row |= {"margin": margin.value, "margin_low": margin.low, "margin_high": margin.high}
    return pd.DataFrame(rows, columns=ranked.columns)
