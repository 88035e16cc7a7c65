"""Paired comparison of two cells."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from result_folders import EXACT, cell, record, write_folder
from scipy import stats
from toksweep.harness.contracts import UserError
from toksweep.reports.comparison import compare, compare_cells

IDS = [f"s{i:03d}" for i in range(60)]


def scores(seed: int, shift: float = 0.0):
    shared = np.random.default_rng(99).normal(size=60)
    return shared + 0.3 * np.random.default_rng(seed).normal(size=60) + shift


def records(values):
    return [record(i, float(v)) for i, v in enumerate(values)]


def test_difference_and_interval_agree_with_scipy_on_paired_scores(tmp_path):
    a, b = scores(1), scores(2, 0.2)
    folder = write_folder(tmp_path / "x", [(cell("fastv", IDS), records(a)), (cell("tome", IDS), records(b))])
    (got,) = compare_cells(folder, "fastv@4", "tome@4")
    theirs = stats.bootstrap((b - a,), np.mean, n_resamples=20000, method="percentile", rng=1).confidence_interval
    assert got.difference.value == pytest.approx((b - a).mean())
    assert got.difference.low == pytest.approx(theirs.low, abs=0.02)
    assert got.difference.high == pytest.approx(theirs.high, abs=0.02)
    assert got.verdict == "b is better"


def test_lower_is_better_turns_the_verdict(tmp_path):
    distance = (replace(EXACT, higher_is_better=False),)
    cells = [
        (cell("fastv", IDS, metrics=distance), records(scores(1))),
        (cell("tome", IDS, metrics=distance), records(scores(1, 1.0))),
    ]
    (got,) = compare_cells(write_folder(tmp_path / "x", cells), "fastv@4", "tome@4")
    assert got.verdict == "a is better"


def test_difference_within_chance_is_a_tie(tmp_path):
    cells = [(cell("fastv", IDS), records(scores(1))), (cell("tome", IDS), records(scores(2)))]
    assert compare_cells(write_folder(tmp_path / "x", cells), "fastv@4", "tome@4")[0].verdict == "tie"


def test_few_clusters_are_illustrative(tmp_path):
    few = IDS[:10]
    cells = [(cell("fastv", few), records(np.zeros(10))), (cell("tome", few), records(np.ones(10)))]
    assert compare_cells(write_folder(tmp_path / "x", cells), "fastv@4", "tome@4")[0].verdict == "illustrative"


def test_only_samples_of_both_sides_count(tmp_path):
    full = cell("none", IDS, kind="untouched", budget=None, budget_value=None, budget_unit=None, budget_convention=None)
    cells = [(full, records(np.ones(60))), (cell("tome", IDS), records(np.zeros(60))[:40])]
    (got,) = compare_cells(write_folder(tmp_path / "x", cells), "none", "tome@4")
    assert (got.n_samples, got.difference.value) == (40, -1.0)
    assert got.note == "40 of 60 samples are scored in both"


def test_seeds_of_one_side_are_averaged(tmp_path):
    cells = [(cell("random", IDS, seed=s), records(np.full(60, float(s)))) for s in (0, 1, 2)]
    cells += [(cell("tome", IDS), records(np.full(60, 3.0)))]
    (got,) = compare_cells(write_folder(tmp_path / "x", cells), "random@4", "tome@4")
    assert (got.a, got.b, got.difference.value) == (1.0, 3.0, 2.0)


def test_differing_protocols_are_named_and_not_compared(tmp_path):
    other = (replace(EXACT, protocol="exact_match/v2"),)
    cells = [(cell("fastv", IDS), records(scores(1))), (cell("tome", IDS, metrics=other), records(scores(2)))]
    (got,) = compare_cells(write_folder(tmp_path / "x", cells), "fastv@4", "tome@4")
    assert (got.verdict, got.difference) == ("not comparable", None)
    assert "'exact_match/v1' and 'exact_match/v2'" in got.note


def test_rows_are_json_without_nan(tmp_path):
    one = IDS[:1]
    cells = [(cell("fastv", one), records([0.0])), (cell("tome", one), records([1.0]))]
    rows = compare(write_folder(tmp_path / "x", cells), "fastv@4", "tome@4")
    assert json.loads(json.dumps(rows, allow_nan=False))[0]["ci_low"] is None
    assert rows[0]["protocol"] == EXACT.protocol


def test_unknown_cell_lists_near_ones(tmp_path):
    folder = write_folder(tmp_path / "x", [(cell("fastv(layer=3)", IDS), records(scores(1)))])
    with pytest.raises(UserError, match=r"fastv\(layer=3\)@4"):
        compare(folder, "fastv(layer=2)@4", "fastv(layer=3)@4")


def test_cells_without_a_common_task_are_misuse(tmp_path):
    cells = [(cell("fastv", IDS), records(scores(1))), (cell("tome", IDS, task="other"), records(scores(2)))]
    with pytest.raises(UserError, match="fastv@4 ran on images_qa, tome@4 on other"):
        compare(write_folder(tmp_path / "x", cells), "fastv@4", "tome@4")
