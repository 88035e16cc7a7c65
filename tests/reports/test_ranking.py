"""Ranks, ties, floors and ceilings, and who takes no rank."""

from __future__ import annotations

import math

import pytest
from cell_tables import frame, row, untouched
from toksweep.harness.contracts import UserError
from toksweep.reports.ranking import rank, sentence


def ranked(*rows):
    """Ranks by label, and the whole table by label."""
    table = rank(frame(rows)).set_index("label", drop=False)
    return table["rank"].to_dict(), table


def cell(method, value, half=0.01, **given):
    return row(method=method, value=value, ci_low=value - half, ci_high=value + half, **given)


def test_clear_differences_are_ranked_in_order():
    assert ranked(cell("a", 0.5), cell("b", 0.7), cell("c", 0.6))[0] == {"a": 3, "b": 1, "c": 2}


def test_lower_is_better_turns_the_order():
    assert ranked(*(cell(m, v, higher_is_better=False) for m, v in (("a", 0.5), ("b", 0.7))))[0] == {"a": 1, "b": 2}


def test_overlapping_intervals_are_ties():
    ranks, table = ranked(cell("a", 0.70, 0.02), cell("b", 0.69, 0.02), cell("c", 0.5))
    assert ranks == {"a": 1, "b": 1, "c": 3}
    assert table["tied"].to_dict() == {"a": True, "b": True, "c": False}


def test_other_budgets_protocols_tasks_and_models_are_ranked_apart():
    for other in ({"budget": "1bpp", "budget_value": 1.0}, {"protocol": "2"}, {"task": "text"}, {"model": "m"}):
        assert ranked(cell("a", 0.5), cell("b", 0.7, **other))[0] == {"a": 1, "b": 1}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"illustrative": True, "n_clusters": 12}, "illustrative"),
        ({"status": "infeasible"}, "infeasible"),
        ({"status": "partial"}, "partial"),
        ({"status": "incomplete"}, "incomplete"),
        ({"floor": True}, "floor"),
        ({"source": "literature"}, "published elsewhere"),
    ],
)
def test_cells_that_cannot_be_compared_take_no_rank_and_cost_nobody_a_place(given, why):
    ranks, table = ranked(cell("best", 0.9, **given), cell("b", 0.7))
    assert math.isnan(ranks["best"])
    assert table.loc["best", "unranked"] == why
    assert ranks["b"] == 1


def test_cell_without_a_value_takes_no_rank():
    ranks, _ = ranked(row(method="a", value=None, ci_low=None, ci_high=None), cell("b", 0.7))
    assert math.isnan(ranks["a"])


def test_ceiling_is_the_untouched_cell_of_the_same_metric_and_protocol():
    _, table = ranked(cell("a", 0.5), untouched(value=0.98), untouched(value=0.4, protocol="other", cell_id="x"))
    assert table.loc["a", "ceiling"] == 0.98


def test_margin_is_over_the_best_floor_at_the_same_budget():
    rows = [cell("a", 0.5), cell("f", 0.3, floor=True), cell("g", 0.45, floor=True)]
    rows += [cell("h", 0.6, floor=True, budget_value=1.0)]
    _, table = ranked(*rows)
    assert table.loc["a", "floor_label"] == "g"
    assert table.loc["a", "margin"] == pytest.approx(0.05)
    assert math.isnan(table.loc["g", "margin"])


def test_margin_of_a_lower_is_better_metric_is_positive_where_better():
    _, table = ranked(cell("a", 0.2, higher_is_better=False), cell("f", 0.5, floor=True, higher_is_better=False))
    assert table.loc["a", "margin"] == pytest.approx(0.3)


def test_seeds_of_a_floor_are_averaged_before_the_best_is_taken():
    seeds = [cell("random", v, floor=True, seed=s) for s, v in enumerate((0.1, 0.5))]
    table = rank(frame([cell("a", 0.6), *seeds, cell("uniform", 0.35, floor=True)])).set_index("label")
    assert table.loc["a", "floor_label"] == "uniform"


def test_infeasible_floor_is_no_floor():
    _, table = ranked(cell("a", 0.5), cell("f", 0.3, floor=True, status="infeasible"))
    assert math.isnan(table.loc["a", "margin"])


def test_slices_are_not_ranked():
    assert len(rank(frame([cell("a", 0.5), cell("a", 0.9, slice="size=small")]))) == 1


def test_caution_counts_the_clusters():
    table = rank(frame([cell("a", 0.5, illustrative=True, n_clusters=12)]))
    assert sentence(table).startswith("Illustrative: at most 12 source pictures")
    assert sentence(rank(frame([cell("a", 0.5)]))) == ""


def test_report_of_nothing_is_misuse():
    with pytest.raises(UserError, match="nothing to report"):
        rank(frame([]))
