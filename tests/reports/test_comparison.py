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
from toksweep.reports.comparison_text import flip_lists, summary

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


def test_settings_that_differ_are_named(tmp_path):
    cells = [(cell("fastv", IDS), records(scores(1))), (cell("tome", IDS, dtype="bfloat16"), records(scores(2)))]
    with pytest.raises(UserError, match="in common: dtype is float32 of fastv@4 and bfloat16 of tome@4"):
        compare(write_folder(tmp_path / "x", cells), "fastv@4", "tome@4")


def test_the_part_of_the_protocol_that_differs_is_named(tmp_path):
    first, other = (replace(EXACT, protocol=p) for p in ("exact,casefold,strip", "exact,strip,nfkc"))
    cells = [(cell("fastv", IDS, metrics=(first,)), []), (cell("tome", IDS, metrics=(other,)), [])]
    (got,) = compare_cells(write_folder(tmp_path / "x", cells), "fastv@4", "tome@4")
    assert "the protocols differ in casefold against nfkc:" in got.note


def test_metrics_that_differ_are_named(tmp_path):
    cells = [(cell("fastv", IDS), []), (cell("tome", IDS, metrics=(replace(EXACT, name="f1"),)), [])]
    (got,) = compare_cells(write_folder(tmp_path / "x", cells), "fastv@4", "tome@4")
    assert (got.verdict, got.note) == (
        "not comparable",
        "the metrics differ: exact_match and f1; sweep both cells again",
    )


def test_samples_of_one_id_and_other_content_are_left_out_and_counted(tmp_path):
    changed = [replace(r, fingerprint="other") if i < 20 else r for i, r in enumerate(records(scores(2)))]
    cells = [(cell("fastv", IDS), records(scores(1))), (cell("tome", IDS), changed)]
    (got,) = compare_cells(write_folder(tmp_path / "x", cells), "fastv@4", "tome@4")
    assert got.n_samples == 40
    assert "20 samples hold other data in the two cells under the same id" in got.note


def test_subsets_without_a_sample_in_common_are_named(tmp_path):
    cells = [
        (cell("fastv", IDS[:30], subset="first:30"), records(scores(1))[:30]),
        (cell("tome", IDS[30:], subset="stratified:30"), records(scores(2))[30:]),
    ]
    (got,) = compare_cells(write_folder(tmp_path / "x", cells), "fastv@4", "tome@4")
    assert got.note == "no sample is scored in both; the subsets differ: first:30 and stratified:30"


# --------------------------------------------------------------------------------------------------------------- flips


def answered(values, name, *, per_cluster=1):
    return [
        record(i, float(v), prediction=f"{name} {i}", cluster_id=f"c{i // per_cluster}") for i, v in enumerate(values)
    ]


def flipped(tmp_path, a, b, *, per_cluster=1, **given):
    ids = IDS[: len(a)]
    cells = [
        (cell("fastv", ids, **given), answered(a, "fastv", per_cluster=per_cluster)),
        (cell("tome", ids, **given), answered(b, "tome", per_cluster=per_cluster)),
    ]
    return compare_cells(write_folder(tmp_path / "x", cells), "fastv@4", "tome@4")[0]


A = np.repeat([1.0, 1.0, 0.0, 0.0], [30, 12, 3, 15])
B = np.repeat([1.0, 0.0, 1.0, 0.0], [30, 12, 3, 15])


def test_flips_are_listed_with_both_answers(tmp_path):
    flips = flipped(tmp_path, A, B).flips
    assert [f.sample_id for f in flips.lost] == IDS[30:42]
    assert [f.sample_id for f in flips.gained] == IDS[42:45]
    assert (flips.lost[0].prediction_a, flips.lost[0].prediction_b) == ("fastv 30", "tome 30")


def test_mcnemar_of_samples_that_are_clusters_is_that_of_scipy(tmp_path):
    test = flipped(tmp_path, A, B).flips.mcnemar
    assert (test.lost, test.gained) == (12, 3)
    assert test.p_exact_ignoring_clusters == pytest.approx(stats.binomtest(3, 15, 0.5).pvalue)
    assert (
        test.p
        == test.p_ignoring_clusters
        == pytest.approx(2 * stats.binom.cdf(3, 15, 0.5) - stats.binom.pmf(3, 15, 0.5))
    )


def test_mcnemar_swaps_whole_clusters(tmp_path):
    test = flipped(tmp_path, A, B, per_cluster=3).flips.mcnemar
    # Clusters of three: four were lost as wholes and one was gained.
    assert test.p == pytest.approx(2 * stats.binom.cdf(1, 5, 0.5) - stats.binom.pmf(1, 5, 0.5))
    assert test.p_ignoring_clusters < test.p


def test_scores_between_right_and_wrong_have_flips_and_no_mcnemar(tmp_path):
    flips = flipped(tmp_path, np.full(40, 0.6), np.full(40, 0.3)).flips
    assert (len(flips.lost), flips.mcnemar) == (40, None)


def test_what_is_lost_under_a_lower_is_better_metric_rose(tmp_path):
    flips = flipped(tmp_path, A, B, metrics=(replace(EXACT, higher_is_better=False),)).flips
    assert (len(flips.lost), len(flips.gained)) == (3, 12)


def test_a_failure_is_a_flip_without_an_answer(tmp_path):
    lost = record(0, 0.0, status="failed", prediction=None, error="Boom")
    cells = [(cell("fastv", IDS[:1]), [record(0, 1.0)]), (cell("tome", IDS[:1]), [lost])]
    (got,) = compare_cells(write_folder(tmp_path / "x", cells), "fastv@4", "tome@4")
    assert got.flips.lost[0].prediction_b is None
    assert "nothing: it failed" in str(list(flip_lists(got, "fastv@4", "tome@4")))


def test_pictures_have_no_flips(tmp_path):
    assert flipped(tmp_path, A, B, family="reconstruction").flips is None


def test_seeds_that_are_averaged_have_no_flips(tmp_path):
    cells = [(cell("random", IDS, seed=s), records(np.ones(60))) for s in (0, 1)] + [(cell("tome", IDS), records(A))]
    (got,) = compare_cells(write_folder(tmp_path / "x", cells), "random@4", "tome@4")
    assert (got.flips, got.note) == (None, "seeds are averaged, so no sample flips")


def test_the_terminal_shortens_what_json_has_whole(tmp_path):
    got = flipped(tmp_path, A, B)
    (lost_title, lost), (gained_title, gained) = flip_lists(got, "fastv@4", "tome@4")
    assert lost_title == (
        "Right at fastv@4, wrong at tome@4 (exact_match of images_qa): 12, the first 10; --json has all"
    )
    assert (len(lost), len(gained)) == (10, 3)
    assert gained_title.startswith("Right at tome@4, wrong at fastv@4")
    whole = json.loads(json.dumps(got.row(), allow_nan=False))
    assert (len(whole["flips"]["lost"]), whole["mcnemar"]["gained"]) == (12, 3)
    assert summary(got)["lost / gained"] == "12 / 3"
