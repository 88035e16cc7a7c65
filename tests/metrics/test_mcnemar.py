"""McNemar's test against scipy, and its form for clusters against enumeration of all swaps."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats
from toksweep.metrics.mcnemar import swap_test


@pytest.mark.parametrize(("lost", "gained"), [(1, 0), (5, 15), (12, 3), (59, 6), (121, 140), (0, 1100)])
def test_samples_give_the_binomial_test_and_its_mid_p(lost, gained):
    got, n, least = swap_test([-1] * lost + [1] * gained), lost + gained, min(lost, gained)
    assert got.exact == pytest.approx(stats.binomtest(lost, n, 0.5).pvalue, rel=1e-9)
    assert got.mid_p == pytest.approx(2 * stats.binom.cdf(least, n, 0.5) - stats.binom.pmf(least, n, 0.5), rel=1e-9)


def test_a_published_example():
    """Fagerland, Lydersen and Laake 2013 (airway hyper-responsiveness, 7 against 1): exact 0.070, mid-p 0.039."""
    got = swap_test([-1] * 7 + [1])
    assert (round(got.exact, 4), round(got.mid_p, 4)) == (0.0703, 0.0391)


@pytest.mark.parametrize("seed", range(8))
def test_clusters_equal_the_enumeration_of_all_swaps(seed):
    differences = np.random.default_rng(seed).integers(-3, 4, size=9)
    sums = np.abs([np.dot(signs, differences) for signs in product((-1, 1), repeat=9)])
    seen = abs(differences.sum())
    got = swap_test(differences.tolist())
    if seen == 0:
        assert got.exact == got.mid_p == 1
        return
    assert got.exact == pytest.approx((sums >= seen).mean())
    assert got.mid_p == pytest.approx((sums > seen).mean() + (sums == seen).mean() / 2)


def test_clusters_equal_the_permutation_test_of_scipy():
    differences = np.array([2, -1, 3, 1, 1, -2, 2, 0, 4])
    theirs = stats.permutation_test(
        (differences, np.zeros(9)), lambda a, b: np.sum(a - b), permutation_type="samples", n_resamples=np.inf
    )
    assert swap_test(differences.tolist()).exact == pytest.approx(theirs.pvalue)


def test_no_disagreement_and_an_even_one_are_no_evidence():
    for differences in ([], [0, 0], [1, -1]):
        assert swap_test(differences).exact == swap_test(differences).mid_p == 1


def test_clusters_that_move_together_say_less_than_as_many_samples():
    assert swap_test([3, 3, 3]).mid_p > swap_test([1] * 9).mid_p
