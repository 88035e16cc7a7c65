"""From a results folder to its report: cells.parquet, tables, figures and the page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..results.aggregate import write_cells
from ..results.store import ResultsFolder
from .leaderboard import Excerpt, excerpts_of, write_report
from .scores import Scores, scores_of

if TYPE_CHECKING:
    import pandas as pd


def report_folder(path: Path) -> tuple[Path, pd.DataFrame]:
    """Rebuild everything that is derived from the records; the page and the table of cells.

    Raises:
        UserError: there is nothing to report.
    """
    folder = ResultsFolder(path)
    runs = folder.runs()
    cells = write_cells(folder)
    excerpts: list[Excerpt] = []
    scores: Scores = {}
    for cell in folder.cells():  # in one reading
        stored = folder.records(cell.work_id)
        excerpts += excerpts_of(cell, stored)
        scores |= scores_of(cell, stored)
    return write_report(cells, runs, path / "report", excerpts=excerpts, scores=scores), cells
