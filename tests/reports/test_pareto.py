"""The Pareto front against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from toksweep.reports.pareto import front


def by_hand(cost, value, higher_is_better):
    """The definition, point by point."""
    sign = 1 if higher_is_better else -1
    points = [(c, sign * v) for c, v in zip(cost, value, strict=True)]
    on = []
    for c, v in points:
        beaten = any(
            oc <= c and ov >= v and (oc < c or ov > v) for oc, ov in points if not (math.isnan(oc) or math.isnan(ov))
        )
        on.append(not beaten and not math.isnan(c) and not math.isnan(v))
    return on


@pytest.mark.parametrize("higher_is_better", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_front_equals_brute_force_with_ties_and_gaps(seed, higher_is_better):
    rng = np.random.default_rng(seed)
    cost, value = rng.integers(0, 6, size=15).astype(float), rng.integers(0, 6, size=15).astype(float)
    cost[rng.random(15) < 0.1] = np.nan
    value[rng.random(15) < 0.1] = np.nan
    got = front(cost, value, higher_is_better=higher_is_better)
    assert got.tolist() == by_hand(cost, value, higher_is_better)


def test_front_of_rising_scores_is_all_of_them():
    assert front([1, 2, 3], [0.1, 0.2, 0.3], higher_is_better=True).tolist() == [True, True, True]
    assert front([1, 2, 3], [0.1, 0.2, 0.3], higher_is_better=False).tolist() == [True, False, False]


def test_equal_points_are_on_the_front_together():
    assert front([1, 1, 2], [5, 5, 5], higher_is_better=True).tolist() == [True, True, False]


def test_front_of_nothing_is_nothing():
    assert front([], [], higher_is_better=True).tolist() == []


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="one length"):
        front([1, 2], [1], higher_is_better=True)
