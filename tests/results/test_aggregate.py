"""Sample records to cell records: means, bins, failures and statuses."""

import math

import numpy as np
import pandas as pd
import pytest
from toksweep.results.aggregate import cluster_table, loss_correlation, table, write_cells
from toksweep.results.records import COLUMNS, SampleRecord, Score
from toksweep.results.store import Cell, MetricInfo, ResultsFolder, new_writer_name, run_tables

PSNR = MetricInfo("psnr", "dB", True, None, "", "p", "c", "fidelity")
ACC = MetricInfo("t_acc[x]", "share", True, 0.0, "size", "p", "c", "text")


def cell(*samples, work_id="w", metrics=(ACC,), **changes):
    values = {
        "cell_id": "id" + work_id,
        "work_id": work_id,
        "model": None,
        "model_revision": None,
        "method": "jpeg",
        "method_params": {},
        "label": "jpeg",
        "kind": "tokenizer",
        "floor": False,
        "verified": None,
        "budget": "1bpp",
        "budget_value": 1.0,
        "budget_unit": "bpp",
        "budget_convention": None,
        "task": "text",
        "family": "reconstruction",
        "subset": "all",
        "seed": 0,
        "dtype": None,
        "attention": None,
        "device": "cpu",
        "metrics": metrics,
        "sample_ids": samples,
    }
    return Cell(**(values | changes))


def record(sample, *items, cluster=None, metric="t_acc[x]", status="ok", protocol="p", **more):
    scores = {metric: Score(protocol, "c", tuple((v, {"size": s} if s else {}) for v, s in items))} if items else {}
    return SampleRecord(sample, cluster or sample, "f", status, scores=scores, **more)


def folder(path, runs, records):
    results = ResultsFolder(path)
    results.prepare()
    for cells in runs:
        results.add_run({"run_id": "r", **run_tables(cells)})
    for work_id, lines in records.items():
        writer = results.sample_writer(work_id, new_writer_name())
        [writer.append(r.to_json()) for r in lines]
    return results


def headline(results):
    return table(results).query("slice.isnull()").iloc[0]


def test_the_headline_is_the_mean_of_the_bins_and_each_slice_its_own_mean(tmp_path):
    lines = [record("a", (1.0, "small"), (0.0, "small"), (1.0, "large")), record("b", (0.0, "small"), (1.0, None))]
    rows = table(folder(tmp_path, [[cell("a", "b")]], {"w": lines})).set_index(
        table(ResultsFolder(tmp_path)).slice.fillna("-")
    )
    assert rows.loc["-", "value"] == pytest.approx((1 / 3 + 1) / 2)
    assert rows.loc["size=small", "value"] == pytest.approx(1 / 3)
    assert rows.loc["size=large", "value"] == 1
    assert (rows.loc["size=small", "n"], rows.loc["size=small", "n_items"]) == (2, 3)
    assert list(rows.columns) == list(COLUMNS)


def test_clusters_and_not_samples_are_counted_for_the_interval(tmp_path):
    lines = [record(f"s{i}", (float(i % 2), "small"), cluster=f"c{i // 2}") for i in range(8)]
    row = headline(folder(tmp_path, [[cell(*(r.sample_id for r in lines))]], {"w": lines}))
    assert (row.n, row.n_clusters, row.illustrative) == (8, 4, True)
    assert (row.value, row.ci_low, row.ci_high) == (0.5, 0.5, 0.5)  # all clusters are alike


def test_a_failure_counts_with_the_worst_value_that_its_record_holds(tmp_path):
    lines = [record("a", (1.0, "small")), record("b", (0.0, "small"), status="failed", error="x")]
    row = headline(folder(tmp_path, [[cell("a", "b")]], {"w": lines}))
    assert (row.value, row.n_failed, row.status) == (0.5, 1, "complete")


def test_a_failure_without_a_worst_value_leaves_the_cell_without_a_value(tmp_path):
    lines = [record("a", (30.0, None), metric="psnr"), record("b", status="failed")]
    row = headline(folder(tmp_path, [[cell("a", "b", metrics=(PSNR,))]], {"w": lines}))
    assert row.status == "incomplete"
    assert row.value is None or math.isnan(row.value)


def test_a_bad_input_is_counted_and_left_out(tmp_path):
    lines = [record("a", (1.0, "small")), record("b", status="bad_input")]
    row = headline(folder(tmp_path, [[cell("a", "b")]], {"w": lines}))
    assert (row.value, row.n, row.n_bad_input, row.status) == (1.0, 1, 1, "complete")


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([record("a", (1.0, "small"))], "partial"),
        ([record("a", (1.0, "small")), record("b", (1.0, "small"), status="infeasible")], "infeasible"),
        ([record("a", (1.0, "small")), record("b", (1.0, "small"), protocol="old")], "partial"),
        ([record("a", (1.0, "small")), record("b", (1.0, "small"))], "complete"),
    ],
)
def test_the_status_says_what_a_cell_is_worth(tmp_path, lines, status):
    row = headline(folder(tmp_path, [[cell("a", "b")]], {"w": lines}))
    assert row.status == status
    assert row.value == 1.0


def test_costs_are_means_over_what_was_executed(tmp_path):
    lines = [
        record(
            "a",
            (1.0, None),
            metric="psnr",
            bits=100,
            pixels=100,
            tokens_per_layer=(4, 2),
            tokens_full=4,
            tokens_kv=3.0,
            flops=10.0,
        ),
        record(
            "b",
            (1.0, None),
            metric="psnr",
            bits=50,
            pixels=100,
            tokens_per_layer=(4, 0),
            tokens_full=4,
            tokens_kv=2.0,
            flops=20.0,
        ),
        record("c", status="failed"),
    ]
    row = headline(folder(tmp_path, [[cell("a", "b", "c", metrics=(PSNR,))]], {"w": lines}))
    assert (row.bits_per_pixel, row.tokens_entering, row.tokens_mean, row.tokens_kv, row.flops) == (
        0.75,
        4,
        2.5,
        2.5,
        15,
    )


def test_the_newest_runs_work_stands_with_the_most_samples_asked_of_it(tmp_path):
    lines = [record(s, (1.0, "small")) for s in "abc"]
    runs = [[cell("a", "b", "c")], [cell("a")]]
    assert headline(folder(tmp_path / "1", runs, {"w": lines})).n == 3
    runs = [[cell("a", "b", "c")], [cell("a", work_id="v")]]
    rows = table(folder(tmp_path / "2", runs, {"w": lines, "v": [record("a", (0.0, "small"))]}))
    assert set(rows.work_id) == {"v"}
    assert headline(ResultsFolder(tmp_path / "2")).value == 0


def test_the_parquet_file_holds_the_table(tmp_path):
    results = folder(tmp_path, [[cell("a")]], {"w": [record("a", (1.0, "small"))]})
    written = write_cells(results)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "cells.parquet"), written, check_dtype=False)


def test_bins_that_no_item_names_are_left_out():
    clusters, sums, counts = cluster_table([record("a", (1.0, None), (0.5, "small"))], "t_acc[x]", mean_over="size")
    assert (clusters, sums.tolist(), counts.tolist()) == (["a"], [[0.5]], [[1.0]])


def test_losses_are_correlated_over_samples_that_full_tokens_answer():
    def both(sample, lost, score):
        scores = {"e": Score("p", "c", ((1 - lost, {}),)), "a": Score("p", "c", ((score, {}),))}
        return SampleRecord(sample, sample, "f", "ok", scores=scores)

    whole = {s: both(s, 0.0, score) for s, score in (("1", 1.0), ("2", 1.0), ("3", 1.0), ("4", 1.0), ("wrong", 0.0))}
    headline = MetricInfo("a", "", True, 0.0, "", "p", "c", "vqa")
    cut = [both("1", 0.9, 0.0), both("2", 0.7, 0.0), both("3", 0.2, 1.0), both("4", 0.0, 1.0), both("wrong", 1.0, 0.0)]
    wanted = np.corrcoef([0.9, 0.7, 0.2, 0.0], [1, 1, 0, 0])[0, 1]
    found = loss_correlation(cut, whole, "e", headline)
    assert found["loss_correlation"] == pytest.approx(wanted)
    assert found["loss_correlation_low"] <= wanted <= found["loss_correlation_high"]
    assert (found["loss_correlation_n"], found["loss_correlation_clusters"]) == (4, 4)
    assert loss_correlation(cut[:2], whole, "e", headline)["loss_correlation"] is None
    assert loss_correlation(cut[2:4] * 2, whole, "e", headline)["loss_correlation"] is None
