"""Statistics: against hand-worked values, scipy, and simulations whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from toksweep.metrics.statistics import (
    Interval,
    cluster_bootstrap,
    cluster_correlation,
    combine,
    noninferiority,
    paired_difference,
    resample_means,
)


def column(values):
    return np.asarray(values, dtype=float)[:, None]


def test_value_is_the_mean_over_items_not_over_clusters():
    got = cluster_bootstrap(column([3.0, 1.0]), column([3, 1]))
    assert got.value == 1.0
    got = cluster_bootstrap(column([6.0, 1.0]), column([3, 1]))
    assert got.value == 7 / 4


def test_value_with_bins_is_the_mean_of_their_means():
    sums, counts = np.array([[1.0, 0.0], [1.0, 3.0]]), np.array([[1, 0], [3, 4]])
    assert cluster_bootstrap(sums, counts).value == (2 / 4 + 3 / 4) / 2


def test_bin_without_items_is_left_out_of_the_mean():
    sums, counts = np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[1, 0], [1, 0]])
    assert cluster_bootstrap(sums, counts).value == 0.5


def test_single_cluster_has_a_value_and_no_interval():
    got = cluster_bootstrap(column([3.0]), column([4]))
    assert got.value == 0.75
    assert math.isnan(got.low)
    assert math.isnan(got.high)


def test_clusters_without_items_change_nothing():
    rng = np.random.default_rng(1)
    sums, counts = rng.random((12, 1)), np.ones((12, 1))
    padded = cluster_bootstrap(np.vstack([sums, np.zeros((5, 1))]), np.vstack([counts, np.zeros((5, 1))]))
    assert padded == cluster_bootstrap(sums, counts)


def test_resamples_that_miss_a_bin_are_discarded():
    # The second bin lives in two clusters of three: resamples without it (1 of 27) would have another mean.
    sums, counts = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 0.0]]), np.array([[1, 1], [1, 1], [1, 0]])
    got = cluster_bootstrap(sums, counts)
    assert (got.value, got.low, got.high) == (0.5, 0.5, 0.5)


def test_no_interval_where_most_resamples_miss_a_bin():
    # Three bins, each in one cluster of three: 6 of 27 resamples have all of them.
    got = cluster_bootstrap(np.eye(3), np.eye(3))
    assert got.value == 1.0
    assert math.isnan(got.low)


def test_interval_agrees_with_scipys_percentile_bootstrap():
    values = np.random.default_rng(5).gamma(2.0, size=80)
    ours = cluster_bootstrap(column(values), column(np.ones(80)), rounds=20000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20000, method="percentile", rng=3).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.015)
    assert ours.high == pytest.approx(theirs.high, abs=0.015)


def test_interval_of_a_ratio_agrees_with_scipys_paired_bootstrap():
    rng = np.random.default_rng(8)
    counts = rng.integers(1, 9, size=70).astype(float)
    sums = rng.binomial(counts.astype(int), 0.6).astype(float)
    ours = cluster_bootstrap(column(sums), column(counts), rounds=20000)
    theirs = stats.bootstrap(
        (sums, counts),
        lambda s, c, axis: s.sum(axis=axis) / c.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=20000,
        method="percentile",
        rng=3,
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.005)
    assert ours.high == pytest.approx(theirs.high, abs=0.005)


def test_same_seed_gives_the_same_interval_and_another_seed_another():
    sums, counts = np.random.default_rng(2).random((40, 1)), np.ones((40, 1))
    assert cluster_bootstrap(sums, counts, seed=4) == cluster_bootstrap(sums, counts, seed=4)
    assert cluster_bootstrap(sums, counts, seed=4) != cluster_bootstrap(sums, counts, seed=5)


def test_rounds_drawn_in_portions_give_the_same_interval(monkeypatch):
    from toksweep.metrics import statistics

    sums, counts = np.random.default_rng(2).random((40, 1)), np.ones((40, 1))
    whole = cluster_bootstrap(sums, counts)
    monkeypatch.setattr(statistics, "_DRAWS_AT_ONCE", 40 * 7)
    assert cluster_bootstrap(sums, counts) == whole


def test_coverage_of_95_percent_intervals_lies_between_93_and_97_percent():
    # 60 pictures, 1 to 6 items each, a picture effect that items share; truth 0.
    rng = np.random.default_rng(11)
    hits, trials = 0, 1200
    for trial in range(trials):
        counts = rng.integers(1, 7, size=60)
        noise = rng.normal(size=60) * counts + rng.normal(size=60) * np.sqrt(counts)
        got = cluster_bootstrap(column(noise), column(counts), rounds=600, seed=trial)
        hits += got.low <= 0.0 <= got.high
    assert 0.93 <= hits / trials <= 0.97


def test_interval_that_ignored_clusters_would_be_too_narrow():
    # Ten copies of each of 40 scores: clustered, the interval is that of 40 scores; unclustered it is far narrower.
    scores = np.random.default_rng(3).normal(size=40)
    clustered = cluster_bootstrap(column(10 * scores), column(np.full(40, 10)))
    plain = cluster_bootstrap(column(scores), column(np.ones(40)))
    naive = cluster_bootstrap(column(np.repeat(scores, 10)), column(np.ones(400)))
    assert clustered.high - clustered.low == pytest.approx(plain.high - plain.low)
    assert naive.high - naive.low < 0.5 * (clustered.high - clustered.low)


def test_paired_difference_is_b_minus_a():
    a, b, ones = column([0.0, 0.0, 1.0]), column([1.0, 1.0, 1.0]), np.ones((3, 1))
    assert paired_difference(a, ones, b, ones).value == pytest.approx(2 / 3)


def test_paired_difference_of_equal_scores_is_exactly_zero():
    sums, counts = np.random.default_rng(2).random((9, 2)), np.ones((9, 2))
    assert paired_difference(sums, counts, sums, counts) == Interval(0.0, 0.0, 0.0)


def test_paired_difference_removes_what_both_sides_share():
    rng = np.random.default_rng(7)
    hard, ones = rng.normal(size=50), np.ones((50, 1))
    a, b = column(hard), column(hard + 0.1 + 0.01 * rng.normal(size=50))
    paired = paired_difference(a, ones, b, ones)
    assert 0.09 < paired.low < paired.high < 0.11


def test_paired_difference_refuses_bins_of_one_side_only():
    ones = np.ones((2, 2))
    with pytest.raises(ValueError, match="same clusters and bins"):
        paired_difference(ones, ones, ones, ones * [1, 0])


def test_false_alarms_of_the_paired_difference_are_about_5_percent():
    rng = np.random.default_rng(12)
    alarms, trials, ones = 0, 1000, np.ones((50, 1))
    for trial in range(trials):
        shared = rng.normal(size=50)
        a, b = column(shared + rng.normal(size=50)), column(shared + rng.normal(size=50))
        got = paired_difference(a, ones, b, ones, rounds=600, seed=trial)
        alarms += not got.low <= 0 <= got.high
    assert 0.03 <= alarms / trials <= 0.075


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.005, 0.02, "pass"),
        (-0.01, 0.02, "pass"),
        (0.0, 0.0, "pass"),
        (-0.03, -0.02, "regressed"),
        (-0.03, 0.02, "not enough evidence"),
        (-0.03, -0.01, "not enough evidence"),
        (math.nan, math.nan, "not enough evidence"),
    ],
)
def test_noninferiority_with_a_margin_of_one_point(low, high, verdict):
    assert noninferiority(Interval((low + high) / 2, low, high), 0.01) == verdict


def test_a_loss_of_exactly_the_margin_is_called_a_regression_in_few_of_many_trials():
    rng = np.random.default_rng(13)
    verdicts, ones = [], np.ones((60, 1))
    for trial in range(600):
        a = column(rng.normal(size=60))
        b = a - 0.1 + column(0.3 * rng.normal(size=60))
        verdicts.append(noninferiority(paired_difference(a, ones, b, ones, rounds=600, seed=trial), 0.1))
    assert verdicts.count("regressed") / 600 <= 0.05
    assert verdicts.count("pass") / 600 <= 0.05


@pytest.mark.parametrize("margin", [-0.01, math.nan, math.inf])
def test_margin_must_be_finite_and_not_negative(margin):
    with pytest.raises(ValueError, match="margin"):
        noninferiority(Interval(0.0, 0.0, 0.0), margin)


@pytest.mark.parametrize(
    ("sums", "counts"),
    [
        (np.ones(3), np.ones(3)),
        (np.ones((3, 1)), np.ones((3, 2))),
        (np.full((3, 1), np.nan), np.ones((3, 1))),
        (np.ones((3, 1)), -np.ones((3, 1))),
    ],
)
def test_malformed_arrays_are_refused(sums, counts):
    with pytest.raises(ValueError, match="must be"):
        cluster_bootstrap(sums, counts)


def test_a_bin_that_one_cluster_alone_has_leaves_no_interval():
    """Its spread cannot be seen: resamples that keep it would be all alike, and the interval falsely narrow."""
    sums, counts = np.array([[3.0, 0.0], [0.0, 1.0]]), np.array([[3.0, 0.0], [0.0, 2.0]])
    interval = cluster_bootstrap(sums, counts)
    assert interval.value == 0.75
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_a_correlation_and_its_interval_equal_those_of_resampled_lists():
    rng = np.random.default_rng(3)
    clusters = rng.integers(12, size=60)
    a = rng.normal(size=60) + clusters
    b = a + 4 * rng.normal(size=60)
    got = cluster_correlation([str(c) for c in clusters], a, b, rounds=400)
    members = [np.flatnonzero(clusters == c) for c in sorted(set(clusters), key=str)]
    rounds = np.random.default_rng(0).integers(len(members), size=(400, len(members)))
    drawn = [np.concatenate([members[i] for i in draw]) for draw in rounds]
    wanted = np.quantile([stats.pearsonr(a[i], b[i]).statistic for i in drawn], [0.025, 0.975])
    assert got.value == pytest.approx(stats.pearsonr(a, b).statistic)
    assert (got.low, got.high) == pytest.approx(tuple(wanted))


def test_a_constant_list_correlates_with_nothing():
    constant = cluster_correlation("abcd", [0.1] * 4, [1, 2, 3, 4])
    assert all(map(math.isnan, (constant.value, constant.low, constant.high)))


def test_pairs_of_one_cluster_have_no_interval_of_their_correlation():
    one = cluster_correlation("aaa", [1, 2, 3], [1, 2, 4])
    assert one.value > 0.9
    assert math.isnan(one.low)


def ratio(values):
    return values[..., 1] / values[..., 0]


def test_a_difference_of_resampled_means_is_the_paired_difference():
    rng = np.random.default_rng(4)
    counts = rng.integers(1, 5, size=(30, 2)).astype(float)
    a, b = rng.random((2, 30, 2)) * counts
    means = resample_means([(a, counts), (b, counts)], seed=7)
    got = combine(lambda values: values[..., 1] - values[..., 0], *means).interval()
    assert got == paired_difference(a, counts, b, counts, seed=7)


def test_a_ratio_and_its_interval_equal_those_of_resampled_lists():
    rng = np.random.default_rng(5)
    sizes = rng.integers(1, 4, size=25)
    full, cut = ([rng.random(n) for n in sizes] for _ in range(2))
    sides = [(column([v.sum() for v in side]), column(sizes)) for side in (full, cut)]
    got = combine(ratio, *resample_means(sides, rounds=300)).interval()
    drawn = np.random.default_rng(0).integers(25, size=(300, 25))
    wanted = [np.concatenate([cut[i] for i in d]).mean() / np.concatenate([full[i] for i in d]).mean() for d in drawn]
    assert got.value == pytest.approx(np.concatenate(cut).mean() / np.concatenate(full).mean())
    assert (got.low, got.high) == pytest.approx(tuple(np.quantile(wanted, [0.025, 0.975])))


def test_intervals_of_paired_ratios_cover_the_truth():
    """Right and wrong answers in clusters of two, that full tokens and a method share to a part: truth 0.6 / 0.8."""
    rng, hits, rounds = np.random.default_rng(6), 0, 300
    for _ in range(rounds):
        easy = rng.random((60, 1)) < 0.5  # a cluster's own
        full = rng.random((60, 2)) < np.where(easy, 0.95, 0.65)
        cut = full & (rng.random((60, 2)) < 0.75)
        sides = [(column(side.sum(axis=1)), column(np.full(60, 2))) for side in (full, cut)]
        found = combine(ratio, *resample_means(sides, rounds=400, seed=int(rng.integers(1 << 30)))).interval()
        hits += found.low <= 0.75 <= found.high
    assert 0.91 <= hits / rounds <= 0.985


def test_what_has_too_few_clusters_has_a_value_and_no_draws():
    (mean,) = resample_means([(column([3.0]), column([4]))])
    both = combine(lambda values: values.sum(axis=-1), mean, *resample_means([(column([1, 2]), column([2, 2]))]))
    assert (both.value, len(both.draws)) == (1.5, 0)
    assert math.isnan(both.interval().low)


def test_means_of_other_clusters_are_refused():
    with pytest.raises(ValueError, match="same clusters"):
        resample_means([(column([1]), column([1])), (column([1, 2]), column([1, 1]))])
