"""Retention: shares and intervals against an independent bootstrap, averages, ranks, and what is left out."""

from __future__ import annotations

import csv
import math
from dataclasses import replace

import numpy as np
import pytest
from result_folders import EXACT
from sweeps import answers, folder_of, method, read_scores, untouched
from toksweep.reports.comparison import compare_cells
from toksweep.reports.margins import with_intervals
from toksweep.reports.ranking import rank
from toksweep.reports.retention import measure
from toksweep.reports.retention_tables import write
from toksweep.reports.scores import Resamples
from toksweep.results.aggregate import table

ALL = answers(0.8, seed=1)
HALF = answers(0.7, seed=2, of=ALL)
WORSE = answers(0.4, seed=3, of=ALL)


def measured(tmp_path, *cells, change=None):
    folder = folder_of(tmp_path / "x", *cells)
    rows = table(folder)
    if change:
        change(rows)
    return measure(rank(rows), Resamples(read_scores(folder)))


def only_scope(*given, **more):
    (found,) = measured(*given, **more)
    (scope,) = found.scopes
    return scope


def points(scope):
    return {(p.label, int(p.budget[0])): p for p in scope.points}


# -------------------------------------------------------------------------------------------------------------- shares


def test_a_share_and_its_interval_agree_with_a_bootstrap_of_lists(tmp_path):
    cells = untouched(ALL, per_cluster=3), method("tome", 8, HALF, per_cluster=3)
    point = points(only_scope(tmp_path, *cells))["tome", 8]
    rng, ratios = np.random.default_rng(5), []
    for _ in range(4000):
        drawn = np.concatenate([np.arange(3 * c, 3 * c + 3) for c in rng.integers(20, size=20)])
        ratios.append(HALF[drawn].mean() / ALL[drawn].mean())
    low, high = np.quantile(ratios, [0.025, 0.975])
    assert point.interval.value == pytest.approx(HALF.mean() / ALL.mean())
    assert (point.interval.low, point.interval.high) == (pytest.approx(low, abs=0.02), pytest.approx(high, abs=0.02))
    assert (point.n, point.n_clusters, point.tokens) == (60, 20, 8)


def test_a_method_that_answers_alike_retains_all_with_certainty(tmp_path):
    point = points(only_scope(tmp_path, untouched(ALL), method("tome", 8, ALL)))["tome", 8]
    assert (point.interval.low, point.interval.value, point.interval.high) == (1.0, 1.0, 1.0)


def test_seeds_are_averaged(tmp_path):
    cells = [method("random", 8, np.full(60, float(s)), seed=s, floor=True) for s in (0, 1)]
    point = points(only_scope(tmp_path, untouched(np.ones(60)), *cells))["random", 8]
    assert (point.retained.value, point.n_seeds) == (0.5, 2)


def test_tokdense_is_percent_per_token_that_enters(tmp_path):
    scope = only_scope(tmp_path, untouched(np.ones(60)), method("tome", 8, np.repeat([1.0, 0.0], 30)))
    assert points(scope)["tome", 8].tokdense == 100 * 0.5 / 8
    assert scope.full_tokdense == 100 / 16


def test_score_that_is_no_share_of_answers_has_no_tokdense(tmp_path):
    scope = only_scope(tmp_path, untouched(np.full(60, 1500.0)), method("tome", 8, np.full(60, 1200.0)))
    assert math.isnan(points(scope)["tome", 8].tokdense)
    assert points(scope)["tome", 8].retained.value == 0.8


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        ((method("tome", 8, HALF),), "full tokens were not measured"),
        ((untouched(np.zeros(60)), method("tome", 8, HALF)), "full tokens score 0.000 (0.000 to 0.000), which may be"),
        (
            (untouched(np.repeat([1.0, 0.0], [1, 59])), method("tome", 8, HALF)),
            "full tokens score 0.017 (0.000 to 0.050), which may be nothing",
        ),
        (
            tuple(
                (replace(c, metrics=(replace(EXACT, higher_is_better=False),)), r)
                for c, r in (untouched(ALL), method("tome", 8, HALF))
            ),
            "lower is better in exact_match",
        ),
    ],
)
def test_what_has_no_share_says_why(tmp_path, cells, why):
    (found,) = measured(tmp_path, *cells)
    assert found.scopes == ()
    assert why in found.skipped[0]


def test_a_score_that_is_no_mean_over_samples_is_not_resampled(tmp_path):
    def aggregate(rows):
        rows.loc[rows["label"] == "tome", "value"] += 0.1

    (found,) = measured(tmp_path, untouched(ALL), method("tome", 8, HALF), change=aggregate)
    assert "exact_match of tome is no mean over samples" in found.skipped[0]


def test_pictures_have_no_retention(tmp_path):
    cells = untouched(ALL, family="reconstruction"), method("jpeg", 8, HALF, family="reconstruction")
    assert measured(tmp_path, *cells) == []


# -------------------------------------------------------------------------------------------------------------- ranks


def test_methods_are_ranked_by_their_paired_difference(tmp_path):
    """Intervals of 0.8 and 0.7 overlap widely; but whatever the second has right the first has too."""
    better, worse = np.repeat([1.0, 0.0], [48, 12]), np.repeat([1.0, 0.0], [41, 19])
    got = points(only_scope(tmp_path, untouched(np.ones(60)), method("a", 8, better), method("b", 8, worse)))
    assert got["a", 8].interval.low < got["b", 8].interval.high
    assert (got["a", 8].place, got["b", 8].place) == ("1", "2")


def test_differences_within_chance_are_ties(tmp_path):
    cells = untouched(np.ones(60)), method("a", 8, answers(0.6, seed=4)), method("b", 8, answers(0.6, seed=5))
    assert {p.place for p in only_scope(tmp_path, *cells).points} == {"=1"}


def test_floors_diagnostics_and_partial_cells_take_no_rank_and_cost_nobody_a_place(tmp_path):
    short = method("partial", 8, ALL)
    cells = [
        untouched(ALL), method("tome", 8, WORSE), method("random", 8, ALL, floor=True),
        method("oracle", 8, ALL, diagnostic=True), (short[0], short[1][:40]),
    ]  # fmt: skip
    got = {p.label: (p.place, p.unranked) for p in only_scope(tmp_path, *cells).points}
    assert got == {
        "tome": ("1", ""), "random": ("", "floor"), "oracle": ("", "diagnostic"), "partial": ("", "partial"),
    }  # fmt: skip


def test_cells_of_few_clusters_are_illustrative_and_unranked(tmp_path):
    scope = only_scope(tmp_path, untouched(ALL, per_cluster=3), method("tome", 8, HALF, per_cluster=3))
    assert [(p.illustrative, p.rank, p.unranked) for p in scope.points] == [(True, None, "illustrative")]


# ------------------------------------------------------------------------------------------------------------ averages


def two_tasks(*, pictures=("c", "d"), **second):
    full, cut = np.repeat([1.0, 0.0], [20, 40]), np.repeat([1.0, 0.0], [15, 45])
    return [
        untouched(np.ones(60), task="one", pictures=pictures[0]),
        method("tome", 8, np.repeat([1.0, 0.0], 30), task="one", pictures=pictures[0]),
        untouched(full, task="two", pictures=pictures[1]),
        method("tome", 8, cut, task="two", pictures=pictures[1], **second),
    ]


def test_an_average_is_the_mean_of_the_shares_and_not_the_share_of_the_means(tmp_path):
    (found,) = measured(tmp_path, *two_tasks())
    average, *tasks = found.scopes
    assert [s.name for s in tasks] == ["one", "two"]
    assert average.points[0].retained.value == pytest.approx((30 / 60 + 15 / 20) / 2)
    assert average.points[0].n == 120


def test_tasks_of_other_pictures_are_resampled_independently_and_those_of_the_same_together(tmp_path):
    """Averaging two copies of a task says nothing new where their pictures are the same, and halves the variance where
    they are not."""

    def width(name, pictures):
        cells = [
            part
            for task, own in zip(("one", "two"), pictures, strict=True)
            for part in (untouched(ALL, task=task, pictures=own), method("tome", 8, HALF, task=task, pictures=own))
        ]
        (found,) = measured(tmp_path / name, *cells)
        return [scope.points[0].interval.high - scope.points[0].interval.low for scope in found.scopes]

    average, one, _ = width("same", ("c", "c"))
    assert average == pytest.approx(one)
    average, one, _ = width("other", ("c", "d"))
    assert average == pytest.approx(one / math.sqrt(2), rel=0.1)


def test_a_task_that_some_method_lacks_at_a_budget_is_left_out_there_and_named(tmp_path):
    cells = [*two_tasks(), method("fastv", 8, np.ones(60), task="one")]
    (found,) = measured(tmp_path, *cells)
    average = found.scopes[0]
    assert {p.label: p.retained.value for p in average.points} == {"tome": 0.5, "fastv": 1.0}
    assert "At 8 tokens (mean) two is left out of the average: fastv has no complete cell there." in average.remarks


def test_a_budget_of_fewer_tasks_than_another_is_ranked_all_the_same(tmp_path):
    (found,) = measured(tmp_path, *two_tasks(), method("tome", 4, HALF, task="one"))
    assert {p.place for p in found.scopes[0].points} == {"1"}


def test_one_task_under_two_protocols_stays_apart(tmp_path):
    def under_another(cell, records):
        other = replace(EXACT, protocol="exact_match/v2")
        scores = [replace(r.scores["exact_match"], protocol=other.protocol) for r in records]
        changed = [replace(r, scores={"exact_match": s}) for r, s in zip(records, scores, strict=True)]
        return replace(cell, metrics=(other,)), changed

    cells = [untouched(ALL), method("tome", 8, HALF)]
    cells += [under_another(*untouched(ALL, seed=1)), under_another(*method("fastv", 8, WORSE))]
    (found,) = measured(tmp_path, *cells)
    average, *tasks = found.scopes
    assert [{p.label for p in s.points} for s in tasks] == [{"fastv"}, {"tome"}]
    assert average.points == ()


def test_a_diagnostic_does_not_decide_over_which_tasks_is_averaged(tmp_path):
    cells = [*two_tasks(), method("oracle", 8, np.ones(60), task="one", diagnostic=True)]
    (found,) = measured(tmp_path, *cells)
    assert [p.label for p in found.scopes[0].points] == ["tome"]
    assert found.scopes[0].points[0].n == 120


def test_budgets_without_a_common_task_have_no_average(tmp_path):
    cells = [untouched(ALL, task=t) for t in ("one", "two")]
    cells += [method("tome", 8, HALF, task="one"), method("fastv", 8, HALF, task="two")]
    (found,) = measured(tmp_path, *cells)
    assert found.scopes[0].points == ()
    assert "At 8 tokens (mean) there is no average." in found.scopes[0].remarks


def test_curves_of_an_average_need_the_same_tasks_at_every_budget(tmp_path):
    cells = [*two_tasks(), method("tome", 4, HALF, task="one")]
    (found,) = measured(tmp_path, *cells)
    assert found.scopes[0].curves.by_label == {}
    assert "rest on different tasks" in found.scopes[0].remarks[-1]


# -------------------------------------------------------------------------------------------------------------- curves


def test_areas_and_smallest_budgets_of_a_hand_worked_curve(tmp_path):
    share = {8: 0.96, 4: 0.5}
    cells = [method("tome", t, np.repeat([1.0, 0.0], [round(100 * s), round(100 - 100 * s)])) for t, s in share.items()]
    scope = only_scope(tmp_path, untouched(np.ones(100)), *cells)
    curve = scope.curves.by_label["tome"]
    assert (scope.curves.low, scope.curves.full) == (4, 16)
    assert curve.area.value == pytest.approx(((0.5 + 0.96) / 2 + (0.96 + 1.0) / 2) / 2)
    assert curve.hypervolume.value == pytest.approx((0.5 + 0.96) / 2)
    assert curve.area.low < curve.area.value < curve.area.high
    assert (curve.reach[0.95].tokens, curve.reach[0.95].sure) == (8, False)
    assert curve.reach[0.99] is None


def test_areas_rest_on_the_budgets_that_all_methods_have(tmp_path):
    cells = [method("tome", t, HALF) for t in (8, 4, 2)] + [method("fastv", t, WORSE) for t in (8, 4)]
    scope = only_scope(tmp_path, untouched(ALL), *cells)
    assert scope.curves.budgets == ("8 tokens (mean)", "4 tokens (mean)")
    assert scope.curves.low == 4
    assert scope.remarks == ("The areas leave out 2 tokens (mean): fastv has no complete cell there.",)


def of_budget(budget, cell_and_records):
    """The same cell as that of a budget which it does not spend in full."""
    made, records = cell_and_records
    return replace(made, budget=str(budget), budget_value=float(budget)), records


def test_areas_begin_where_the_curve_of_every_method_has_begun(tmp_path):
    cells = [method("tome", t, HALF) for t in (8, 4)] + [
        method("fastv", 8, HALF),
        of_budget(4, method("fastv", 3, HALF)),
    ]
    scope = only_scope(tmp_path, untouched(ALL), *cells)
    assert scope.curves.low == 4
    assert not any(math.isnan(c.area.value) for c in scope.curves.by_label.values())


def test_a_diagnostic_that_begins_later_has_no_area_and_costs_no_method_its_own(tmp_path):
    late = [of_budget(4, method("oracle", 5, HALF, diagnostic=True)), method("oracle", 8, HALF, diagnostic=True)]
    lower = method("oracle", 2, HALF, diagnostic=True)
    cells = [method("tome", t, HALF) for t in (8, 4)]
    found = only_scope(tmp_path, untouched(ALL), *cells, *late, lower).curves.by_label
    assert not math.isnan(found["tome"].area.value)
    assert math.isnan(found["oracle"].area.value)


def test_methods_without_two_budgets_in_common_have_no_areas(tmp_path):
    cells = [method("tome", t, HALF) for t in (8, 4)] + [method("fastv", t, WORSE) for t in (8, 2)]
    scope = only_scope(tmp_path, untouched(ALL), *cells)
    assert math.isnan(scope.curves.by_label["tome"].area.value)
    assert "no areas" in scope.remarks[0]


def test_partial_cells_enter_no_curve(tmp_path):
    whole, short = method("tome", 8, HALF), method("tome", 4, HALF)
    scope = only_scope(tmp_path, untouched(ALL), whole, (short[0], short[1][:40]), method("tome", 2, HALF))
    assert scope.curves.budgets == ("8 tokens (mean)", "2 tokens (mean)")


# ------------------------------------------------------------------------------------------------------------- margins


def test_a_margin_has_the_interval_of_the_paired_comparison(tmp_path):
    floors = [method("random", 8, answers(0.5, seed=7 + s), seed=s, floor=True, per_cluster=2) for s in (0, 1)]
    folder = folder_of(tmp_path / "x", method("tome", 8, HALF, per_cluster=2), *floors)
    got = with_intervals(rank(table(folder)), Resamples(read_scores(folder))).set_index("label").loc["tome"]
    (paired,) = compare_cells(folder, "random@8", "tome@8")
    assert (got["margin"], got["margin_low"], got["margin_high"]) == pytest.approx(
        (paired.difference.value, paired.difference.low, paired.difference.high)
    )


def test_a_margin_of_a_lower_is_better_metric_is_positive_where_better(tmp_path):
    cells = [method("tome", 8, 0.1 + WORSE), method("random", 8, 2 + WORSE, floor=True)]
    cells = [(replace(c, metrics=(replace(EXACT, higher_is_better=False),)), r) for c, r in cells]
    folder = folder_of(tmp_path / "x", *cells)
    got = with_intervals(rank(table(folder)), Resamples(read_scores(folder))).set_index("label").loc["tome"]
    assert (got["margin_low"], got["margin_high"]) == pytest.approx((1.9, 1.9))


# --------------------------------------------------------------------------------------------------------------- files


def test_files_hold_every_share_in_full_and_null_what_is_not_reached(tmp_path):
    found = measured(tmp_path, untouched(ALL), method("tome", 8, HALF), method("tome", 4, WORSE))
    write(found, tmp_path / "tables")
    shares, curves = (
        list(csv.DictReader((tmp_path / "tables" / name).open())) for name in ("retention.csv", "retention-curves.csv")
    )
    assert [float(r["retention"]) for r in shares] == [p.retained.value for p in found[0].scopes[0].points]
    assert {r["protocol"] for r in shares} == {EXACT.protocol}
    assert (curves[0]["retains_95_budget"], curves[0]["from_tokens"]) == ("", "4.0")
    markdown = (tmp_path / "tables" / "retention.md").read_text()
    assert "| tome | " in markdown
    assert "not reached" in markdown


def test_nothing_measured_writes_nothing(tmp_path):
    assert write([], tmp_path / "tables") == []
    assert not (tmp_path / "tables").exists()
