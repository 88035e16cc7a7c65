"""The regression check: what it notices, what it lets pass, and its exit codes."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from result_folders import ENVIRONMENT, EXACT, cell, record, simple_folder, write_folder
from toksweep.harness.contracts import UserError
from toksweep.reports.baseline import make_baseline, pack, read_baseline, unpack, write_baseline
from toksweep.reports.regression import check
from toksweep.results.records import Score

ELSEWHERE = {"libraries": {"torch": "2.9.1"}, "device": "cpu"}


def answers(n: int, seed: int = 0, share: float = 0.6):
    rng = np.random.default_rng(seed)
    return [record(i, float(rng.random() < share)) for i in range(n)]


def scored(record_, value: float):
    return replace(record_, scores={EXACT.name: Score(EXACT.protocol, EXACT.code, ((value, {}),))})


@pytest.fixture
def judge(tmp_path):
    """Check records against a baseline of other records."""

    def run(before, after, *, environment=ENVIRONMENT, before_cell=None, after_cell=None, **options):
        old = simple_folder(tmp_path / "old", before, **(before_cell or {}))
        new = simple_folder(tmp_path / "new", after, environment, **(after_cell or {}))
        return check(new, make_baseline(old), **options)

    return run


def levels(result) -> list[str]:
    return [f.level for f in result.findings]


def test_rerun_is_fine_and_silent(judge):
    result = judge(answers(40), answers(40))
    assert (result.exit_code, result.findings, result.cells) == (0, (), 1)


def test_rerun_of_few_clusters_is_fine_too(judge):
    assert judge(answers(3), answers(3)).exit_code == 0


def test_other_kept_tokens_are_a_regression_though_scores_are_equal(judge):
    before = answers(5)
    after = [*before[:4], replace(before[4], kept_indices=([0, 5, 6, 8],))]
    result = judge(before, after)
    assert result.exit_code == 1
    assert "keeps other tokens in 1 sample (s004)" in result.findings[0].what


def test_other_order_of_kept_tokens_is_a_regression(judge):
    before = answers(2)
    assert judge(before, [replace(r, kept_indices=([5, 0, 6, 7],)) for r in before]).exit_code == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokens_per_layer": (16, 5, 4)}, "1 x 16, 2 x 4 before, 1 x 16, 1 x 5, 1 x 4 now"),
        ({"flops": 1001.0}, "other FLOPs"),
        ({"bits": 9}, "other bits"),
    ],
)
def test_other_spending_is_a_regression(judge, change, words):
    before = answers(3)
    result = judge(before, [replace(r, **change) for r in before])
    assert result.exit_code == 1
    assert words in result.findings[0].what


def test_elsewhere_a_small_change_of_kept_tokens_passes_and_is_told(judge):
    before = answers(40)
    after = [replace(before[0], kept_indices=([0, 5, 6, 8],)), *before[1:]]
    result = judge(before, after, environment=ELSEWHERE)
    assert (result.exit_code, result.same_environment) == (0, False)
    assert "torch 2.8.0 there and 2.9.1 here" in result.findings[0].what


def test_elsewhere_too_little_overlap_is_a_regression(judge):
    before = answers(4)
    after = [replace(r, kept_indices=([1, 2, 3, 4],)) for r in before]
    result = judge(before, after, environment=ELSEWHERE)
    assert result.exit_code == 1
    assert any("overlap of 0.000" in f.what for f in result.findings)


def test_elsewhere_flops_may_drift_a_little_and_not_much(judge, tmp_path):
    before = answers(4)
    near, far = ([replace(r, flops=f) for r in before] for f in (1010.0, 1030.0))
    baseline = make_baseline(simple_folder(tmp_path / "base", before))
    assert check(simple_folder(tmp_path / "near", near, ELSEWHERE), baseline).exit_code == 0
    assert check(simple_folder(tmp_path / "far", far, ELSEWHERE), baseline).exit_code == 1


def test_another_dtype_counts_as_elsewhere(judge):
    before = answers(4)
    after = [replace(r, flops=1001.0) for r in before]
    assert judge(before, after, after_cell={"dtype": "bfloat16"}).exit_code == 0


def test_a_model_in_another_folder_is_the_same_cell(judge):
    after = {"model": "/b/tiny-llava"}
    old = {"model": "/a/tiny-llava"}
    assert judge(answers(4), answers(4), before_cell=old, after_cell=after).exit_code == 0


def test_large_loss_of_many_clusters_is_a_regression(judge):
    before = answers(120, share=0.9)
    result = judge(before, [scored(r, 0.0) if i % 3 else r for i, r in enumerate(before)])
    assert result.exit_code == 1
    assert "95% interval" in result.findings[0].what
    assert re.search(r"\d+ samples, \d+ clusters$", result.findings[0].what)


def test_gain_passes_with_a_note(judge):
    before = answers(120)
    result = judge(before, [scored(r, 1.0) for r in before])
    assert (result.exit_code, levels(result)) == (0, ["note"])


def test_loss_within_the_margin_passes(judge):
    before = [record(i, 1.0) for i in range(60)]
    after = [scored(r, 0.99) for r in before]
    assert judge(before, after, margin=0.02).exit_code == 0


def test_loss_that_could_be_chance_is_not_enough_evidence(judge):
    before = answers(60)
    after = [scored(r, 0.0) if i < 3 else r for i, r in enumerate(before)]
    assert judge(before, after).exit_code == 3


def test_differing_scores_of_few_clusters_are_not_enough_evidence(judge):
    before = [record(i, 1.0) for i in range(10)]
    result = judge(before, [scored(r, 0.0) for r in before])
    assert result.exit_code == 3
    assert "10 clusters are too few" in result.findings[0].what


def test_exact_regression_outweighs_missing_evidence(judge):
    before = [record(i, 1.0) for i in range(10)]
    result = judge(before, [replace(scored(r, 0.0), flops=1.0) for r in before])
    assert result.exit_code == 1


def test_lower_is_better_metrics_regress_upwards(tmp_path):
    distance = replace(EXACT, name="distance", higher_is_better=False)

    def records(value):
        return [record(i, None, scores={"distance": Score(EXACT.protocol, "c", ((value, {}),))}) for i in range(40)]

    low, high = (simple_folder(tmp_path / str(v), records(v), metrics=(distance,)) for v in (0.2, 0.4))
    assert check(high, make_baseline(low)).exit_code == 1
    assert check(low, make_baseline(high)).exit_code == 0


def test_missing_cell_is_a_regression_and_a_new_one_a_note(tmp_path):
    records = answers(3)
    ids = [r.sample_id for r in records]
    old = write_folder(tmp_path / "old", [(cell("fastv", ids), records), (cell("tome", ids), records)])
    new = write_folder(tmp_path / "new", [(cell("fastv", ids), records), (cell("divprune", ids), records)])
    result = check(new, make_baseline(old))
    assert result.exit_code == 1
    found = {(f.level, f.cell.partition("@")[0]) for f in result.findings}
    assert found == {("regression", "tome"), ("note", "divprune")}


def test_missing_sample_is_a_regression_and_more_samples_are_fine(judge, tmp_path):
    assert judge(answers(6), answers(5)).exit_code == 1
    more = check(
        simple_folder(tmp_path / "more", answers(7)), make_baseline(simple_folder(tmp_path / "few", answers(6)))
    )
    assert more.exit_code == 0


def test_sample_that_fails_now_is_a_regression(judge):
    before = answers(4)
    after = [*before[:3], replace(scored(before[3], 0.0), status="failed", kept_indices=None, tokens_per_layer=None)]
    result = judge(before, after)
    assert result.exit_code == 1
    assert "is failed now, and was not, in 1 sample (s003)" in result.findings[0].what


def test_changed_data_are_not_enough_evidence(judge):
    before = answers(4)
    result = judge(before, [replace(r, fingerprint="other", flops=5.0) for r in before])
    assert result.exit_code == 3
    assert "other data" in result.findings[0].what


def test_other_protocol_is_named_and_not_enough_evidence(judge):
    before = answers(4)
    other = replace(EXACT, protocol="exact_match/v2")
    result = judge(before, before, after_cell={"metrics": (other,)})
    assert result.exit_code == 3
    assert "'exact_match/v1' before, 'exact_match/v2' now" in result.findings[0].what


@pytest.mark.parametrize("options", [{"margin": -0.1}, {"margin": float("nan")}, {"overlap": 1.5}])
def test_senseless_options_are_misuse(judge, options):
    with pytest.raises(UserError, match=next(iter(options))):
        judge(answers(2), answers(2), **options)


def test_cell_under_two_settings_is_misuse(tmp_path):
    records = answers(2)
    ids = [r.sample_id for r in records]
    folder = write_folder(
        tmp_path / "x", [(cell("fastv", ids), records), (cell("fastv", ids, dtype="float16"), records)]
    )
    with pytest.raises(UserError, match="several dtypes"):
        make_baseline(folder)


def test_text_and_json_say_the_same(judge):
    before = answers(2)
    result = judge(before, [replace(r, flops=5.0) for r in before])
    assert result.to_text().startswith("Regression: 1 cells compared")
    assert json.loads(json.dumps(result.to_json()))["exit_code"] == 1


# ---------------------------------------------------------------------------------------------------------------- file


def test_written_baseline_reads_back_and_passes(tmp_path):
    rng = np.random.default_rng(3)
    folder = simple_folder(tmp_path / "runs", [record(i, float(rng.normal())) for i in range(40)])
    path = tmp_path / "baseline.json"
    write_baseline(make_baseline(folder), path)
    assert check(folder, read_baseline(path)).findings == ()


def test_baseline_has_a_line_per_cell(tmp_path):
    records = answers(3)
    ids = [r.sample_id for r in records]
    folder = write_folder(tmp_path / "x", [(cell("fastv", ids), records), (cell("tome", ids), records)])
    write_baseline(make_baseline(folder), tmp_path / "b.json")
    lines = (tmp_path / "b.json").read_text().splitlines()
    assert sum('"key":"fastv@4 (mean) on images_qa with tiny/llava, seed 0"' in line for line in lines) == 1
    assert len(lines) == 5


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', '{"schema": 99, "environment": {}, "cells": []}'])
def test_malformed_baseline_names_the_mend(tmp_path, text):
    path = tmp_path / "b.json"
    path.write_text(text)
    with pytest.raises(UserError, match="--update-baseline"):
        read_baseline(path)


def test_missing_baseline_names_the_mend(tmp_path):
    with pytest.raises(UserError, match="--update-baseline"):
        read_baseline(tmp_path / "none.json")


def test_baseline_of_an_empty_folder_is_misuse(tmp_path):
    with pytest.raises(UserError, match="Nothing has been scored"):
        make_baseline(simple_folder(tmp_path / "x", []))


@pytest.mark.parametrize("indices", [[], [3], [0, 1, 2], [7, 3, 4, 9], [5, 4, 3], list(range(576))])
def test_packed_indices_unpack_to_the_same_set(indices):
    assert unpack(pack(indices)) == {(0, i) for i in indices}


def test_packed_merges_stay_apart_whatever_their_order():
    assert unpack(pack([[1, 2], [4]])) == unpack(pack([[4], [1, 2]])) == {(1, 1), (1, 2), (4, 4)}


def test_class_token_in_a_merge_survives_packing():
    assert unpack(pack([[-1, 0, 3], [5]])) == {(-1, -1), (-1, 0), (-1, 3), (5, 5)}


def test_packing_keeps_the_order():
    assert pack([3, 7, 8, 9]) == "3,7:9"
    assert pack([9, 8]) != pack([8, 9])
