"""Summaries of a curve, against hand-worked figures, scikit-learn's area and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import auc
from toksweep.reports.curves import area, hypervolume, smallest_retaining, tokdense


def test_area_of_a_hand_worked_curve():
    # 0.2 at 16, 0.6 at 64, 0.8 at 256: two equal widths of log 4, means 0.4 and 0.7.
    assert float(area([16, 64, 256], [0.2, 0.6, 0.8], low=16)) == pytest.approx(0.55)


def test_area_may_start_between_two_points():
    # At 32, half-way in log tokens, the score is 0.4: mean 0.5 over log 2, then 0.7 over log 4.
    assert float(area([16, 64, 256], [0.2, 0.6, 0.8], low=32)) == pytest.approx((0.5 + 2 * 0.7) / 3)


@pytest.mark.parametrize("seed", range(5))
def test_area_equals_that_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    tokens, scores = np.sort(rng.uniform(1, 600, size=7)), rng.random((3, 7))
    theirs = [auc(np.log(tokens), s) / np.log(tokens[-1] / tokens[0]) for s in scores]
    assert area(tokens, scores, low=tokens[0]) == pytest.approx(theirs)


def test_two_points_at_one_count_cost_no_width():
    assert float(area([16, 16, 64], [0.1, 0.5, 0.5], low=16)) == pytest.approx(0.5)


def test_area_below_the_first_point_is_refused_rather_than_guessed():
    with pytest.raises(ValueError, match="says nothing of 8"):
        area([16, 64], [0.2, 0.6], low=8)


def by_sampling(tokens, scores, low, worst):
    """The share of a rectangle that some point dominates, on a fine grid, in units of the score."""
    top = max(scores)
    x = np.log(low) + (np.arange(1500) + 0.5) / 1500 * (np.log(tokens[-1]) - np.log(low))
    y = worst + (np.arange(1500) + 0.5) / 1500 * (top - worst)
    dominated = np.zeros((1500, 1500), dtype=bool)
    for t, s in zip(tokens, scores, strict=True):
        dominated |= (x[:, None] >= np.log(t)) & (y <= s)
    return dominated.mean() * (top - worst)


@pytest.mark.parametrize("worst", [0.0, 0.25])
@pytest.mark.parametrize("seed", range(4))
def test_hypervolume_equals_the_share_of_a_grid_that_is_dominated(seed, worst):
    rng = np.random.default_rng(seed)
    tokens, scores = [*np.sort(rng.uniform(8, 500, size=5)), 576.0], rng.random(6)
    got = float(hypervolume(tokens, scores, low=16, worst=worst))
    assert got == pytest.approx(by_sampling(tokens, scores, 16, worst), abs=2e-3)


def test_hypervolume_of_a_hand_worked_front():
    # From 16 to 64 tokens the best is 0.5, from 64 to 256 it stays 0.5, for 0.4 is dominated.
    assert float(hypervolume([16, 64, 256], [0.5, 0.4, 0.9], low=16)) == pytest.approx(0.5)
    assert float(hypervolume([64, 256], [0.6, 0.9], low=16)) == pytest.approx(0.3)


def test_curve_of_no_width_has_no_area():
    assert math.isnan(float(area([64, 64], [0.5, 0.6], low=64)))
    assert math.isnan(float(hypervolume([64, 64], [0.5, 0.6], low=64)))


@pytest.mark.parametrize("tokens", [[64, 16], [0, 16]])
def test_counts_that_fall_or_are_nothing_are_refused(tokens):
    with pytest.raises(ValueError, match="must rise from above 0"):
        area(tokens, [0.1, 0.2], low=16)


@pytest.mark.parametrize(
    ("retention", "share", "found"),
    [
        ([0.5, 0.96, 0.99], 0.95, 1),
        ([0.5, 0.94, 0.949], 0.95, None),
        ([0.97, 0.90, 0.99], 0.95, 2),  # a lucky point below one that loses too much
        ([0.97, 0.96, 0.95], 0.95, 0),
        ([0.97, math.nan, 0.99], 0.95, 2),
    ],
)
def test_smallest_count_that_retains_a_share(retention, share, found):
    assert smallest_retaining([16, 32, 64], retention, share) == found


@pytest.mark.parametrize(
    ("percent", "tokens", "printed"),
    [(57.2, 3136, 0.018), (57.7, 1662.12, 0.035), (57.46, 32, 1.796), (57.72, 13.08, 4.413)],
)
def test_tokdense_equals_table_3_of_vqtoken(percent, tokens, printed):
    assert round(tokdense(percent / 100, tokens), 3) == printed


def test_tokdense_of_no_tokens_is_unknown():
    assert math.isnan(tokdense(0.5, 0))
    assert math.isnan(tokdense(0.5, math.nan))
