"""Figures that a function of another harness makes of a set: differences, retention, and what has no interval."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from result_folders import EXACT, cell, record, write_folder
from sweeps import read_scores
from toksweep.reports.comparison import compare, compare_cells
from toksweep.reports.ranking import rank
from toksweep.reports.retention import measure
from toksweep.reports.scores import Resamples
from toksweep.results import aggregation
from toksweep.results.aggregate import table
from toksweep.results.records import Score

CLUSTERS = 40
TOTAL = replace(EXACT, name="total", aggregation="pairs sum", whole_set=True)


def total(values):
    """MME's way: a category scores the share of right answers and the share of pictures with both right, in percent."""
    kinds = {}
    for v in values:
        kinds.setdefault(v["category"], {}).setdefault(v["question_id"], []).append(v["score"])
    points = 0.0
    for pictures in kinds.values():
        assert all(len(own) == 2 for own in pictures.values())
        scores = [s for own in pictures.values() for s in own]
        points += 100 * np.mean(scores) + 100 * np.mean([all(own) for own in pictures.values()])
    return points


def whole_only(values):
    if len({v["question_id"] for v in values}) < CLUSTERS or any("#" in v["question_id"] for v in values):
        raise ValueError("a picture is missing")
    return total(values)


@pytest.fixture(autouse=True)
def functions(monkeypatch):
    made = {"sum": total, "whole": whole_only, "none": lambda values: 1 / 0}
    monkeypatch.setitem(sys.modules, "own_pairs", SimpleNamespace(find=made.__getitem__))
    monkeypatch.setitem(aggregation.FINDERS, "pairs", "own_pairs")


def raws(right):
    return [{"question_id": f"q{n // 2}", "category": "AB"[n // 2 % 2], "score": float(s)} for n, s in enumerate(right)]


def own(label, right, metric=TOTAL, **given):
    """A cell of two questions to every picture, which scores under `metric`."""
    made = [
        record(
            n, None, cluster_id=f"c{n // 2}",
            scores={metric.name: Score(metric.protocol, metric.code, ((raw["score"], {}),), (raw,))},
        )
        for n, raw in enumerate(raws(right))
    ]  # fmt: skip
    return cell(label, [r.sample_id for r in made], metrics=(metric,), **given), made


def draws(seed, share):
    return np.random.default_rng(seed).random(2 * CLUSTERS) < share


FULL = draws(1, 0.9)
CUT = FULL & draws(2, 0.8)
NONE = {"kind": "untouched", "budget": None, "budget_value": None, "budget_unit": None, "budget_convention": None}


def by_hand(function, rounds=3000):
    """`function` of the figures of both sides on resampled pictures, whose copies are other pictures."""
    found, rng, sides = [], np.random.default_rng(3), [raws(side) for side in (FULL, CUT)]
    for _ in range(rounds):
        drawn = rng.integers(CLUSTERS, size=CLUSTERS)
        made = [
            total([{**side[2 * c + k], "question_id": n} for n, c in enumerate(drawn) for k in (0, 1)])
            for side in sides
        ]
        found.append(function(*made))
    return np.quantile(found, [0.025, 0.975])


def test_a_paired_difference_is_that_of_figures_made_anew_of_resampled_pictures(tmp_path):
    folder = write_folder(tmp_path / "x", [own("none", FULL, **NONE), own("tome", CUT)])
    (got,) = compare_cells(folder, "none", "tome@4")
    assert (got.a, got.b) == (pytest.approx(total(raws(FULL))), pytest.approx(total(raws(CUT))))
    low, high = by_hand(lambda a, b: b - a)
    wide = high - low
    assert got.difference.value == pytest.approx(got.b - got.a)
    assert (got.difference.low, got.difference.high) == (
        pytest.approx(low, abs=0.1 * wide), pytest.approx(high, abs=0.1 * wide),
    )  # fmt: skip
    assert got.verdict == "a is better"
    same = write_folder(tmp_path / "y", [own("none", FULL, **NONE), own("tome", FULL)])
    (got,) = compare_cells(same, "none", "tome@4")
    assert (got.difference.low, got.difference.high, got.verdict) == (0, 0, "tie")


def test_retention_is_the_share_of_the_figure_with_the_interval_of_the_ratio(tmp_path):
    folder = write_folder(tmp_path / "x", [own("none", FULL, **NONE), own("tome", CUT)])
    (found,) = measure(rank(table(folder)), Resamples(read_scores(folder)))
    ((point,),) = [scope.points for scope in found.scopes]
    low, high = by_hand(lambda a, b: b / a)
    assert point.interval.value == pytest.approx(total(raws(CUT)) / total(raws(FULL)))
    assert (point.interval.low, point.interval.high) == (pytest.approx(low, abs=0.02), pytest.approx(high, abs=0.02))


def test_a_figure_of_the_whole_set_only_has_no_interval_and_one_that_fails_is_not_compared(tmp_path):
    metric = replace(TOTAL, aggregation="pairs whole")
    folder = write_folder(tmp_path / "x", [own("none", FULL, metric, **NONE), own("tome", CUT, metric)])
    (row,) = compare(folder, "none", "tome@4")
    assert row["difference"] == pytest.approx(total(raws(CUT)) - total(raws(FULL)))
    assert (row["ci_low"], row["verdict"]) == (None, "no interval")
    (found,) = measure(rank(table(folder)), Resamples(read_scores(folder)))
    (point,) = found.scopes[0].points
    assert point.interval.value == pytest.approx(total(raws(CUT)) / total(raws(FULL)))
    assert np.isnan(point.interval.low)
    assert (point.rank, point.unranked) == (None, "no interval")
    metric = replace(TOTAL, aggregation="pairs none")
    folder = write_folder(tmp_path / "y", [own("none", FULL, metric, **NONE), own("tome", CUT, metric)])
    (row,) = compare(folder, "none", "tome@4")
    assert (row["verdict"], row["difference"]) == ("not comparable", None)
    assert "own aggregation fails" in row["note"]
