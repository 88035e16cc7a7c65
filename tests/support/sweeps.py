"""Small sweeps of questions as results folders: right and wrong answers of several methods at several budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from result_folders import cell, record, write_folder
from toksweep.reports.scores import Scores, scores_of
from toksweep.results.records import SampleRecord
from toksweep.results.store import Cell, ResultsFolder

FULL = 16
Answers = Sequence[float]


def untouched(answers: Answers, **given: object) -> tuple[Cell, list[SampleRecord]]:
    """The cell of full tokens."""
    free = {"budget": None, "budget_value": None, "budget_unit": None, "budget_convention": None}
    return method("none", FULL, answers, **{"kind": "untouched", **free, **given})


def method(label: str, tokens: int, answers: Answers, *, per_cluster: int = 1, **given: object):
    """The cell of a method that leaves `tokens` of 16 tokens in every layer."""
    budget = {"budget": str(tokens), "budget_value": float(tokens)}
    pictures, layers = given.get("pictures", "c"), (tokens, tokens)
    records = [
        record(
            i, float(score), cluster_id=f"{pictures}{i // per_cluster:03d}", prediction=f"{label} {i}",
            tokens_full=FULL, tokens_per_layer=layers,
        )
        for i, score in enumerate(answers)
    ]  # fmt: skip
    fields = {k: v for k, v in given.items() if k != "pictures"}
    return cell(label, [r.sample_id for r in records], **{**budget, **fields}), records


def answers(share: float, n: int = 60, *, seed: int = 0, of: np.ndarray | None = None) -> np.ndarray:
    """Right (1) and wrong (0) answers, a `share` of them right; of those that `of` has right, where it is given."""
    drawn = (np.random.default_rng(seed).random(n) < share).astype(float)
    return drawn if of is None else drawn * of


def read_scores(folder: ResultsFolder) -> Scores:
    """The scores of all cells of a folder."""
    cells = ((c, folder.records(c.work_id)) for c in folder.cells())
    return {key: samples for c, stored in cells for key, samples in scores_of(c, stored).items()}


def folder_of(
    path: Path, *cells: tuple[Cell, list[SampleRecord]], environment: Mapping[str, object] | None = None
) -> ResultsFolder:
    """A results folder of one run."""
    return write_folder(path, cells, *([environment] if environment else []))
