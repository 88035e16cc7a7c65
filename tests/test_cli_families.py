"""Families beside LLaVA from the command line."""

import json

import families
import pandas as pd
import pytest
import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    at = tmp_path_factory.mktemp("families")
    for name in families.FAMILIES:
        families.save(at / name, name)
    tiny.save_questions(at / "data", pictures=2)
    return at


def test_a_budget_that_small_pictures_cannot_reach_counts_as_infeasible_and_the_sweep_goes_on(folder, here):
    code, _, error = here(
        "sweep", "--task", "images_qa", "--data", "images_qa=data", "--model", "qwen2_5_vl", "--method", "fastv",
        "--method", "visionzip", "--budget", "60%", "--budget", "3%", "--no-floors", "--budget-convention", "after_cut",
        "--out", "r", cwd=folder,
    )  # fmt: skip
    assert code == 0, error
    cells = pd.read_parquet(folder / "r" / "cells.parquet")
    cells = cells[cells.metric == "vqa_match"].set_index(["method", "budget"])
    assert cells.loc[("fastv", "60%")].status == "complete"
    assert cells.loc[("fastv", "60%")].tokens_full == 16
    small = cells.loc[("fastv", "3%")]
    assert (small.status, small.n_infeasible, small.value) == ("infeasible", 4, 0)
    assert "needs the signal class_token and the signal class_attention@-2" in error


def test_a_sweep_of_clips_counts_per_frame_and_says_what_cannot_be_had(folder, here):
    code, _, error = here(
        "sweep", "--task", "synth_video_qa", "--model", "llava_onevision", "--model", "llava_next", "--method",
        "fastvid", "--method", "tome", "--budget", "2", "--budget", "16", "--no-floors", "--limit", "2", "--out", "c",
        cwd=folder,
    )  # fmt: skip
    assert code == 0, error
    cells = pd.read_parquet(folder / "c" / "cells.parquet")
    cells = cells[(cells.metric == "accuracy") & cells.slice.isna()].set_index(["model", "method"])
    whole, cut = cells.loc[("llava_onevision", "none")], cells.loc[("llava_onevision", "fastvid")]
    assert (whole.tokens_full, cut.tokens_full) == (33, 33)  # eight frames of 2 x 2 and a newline
    assert (cut.status, cut.budget) == ("complete", "2")
    assert 0 < cut.tokens_entering <= 16
    assert "budget 16 is above the full count of 4 tokens" in error
    assert "the family llava_next shows a picture in crops of several" in error
    assert "tome needs the place encoder" in error


def test_every_promise_holds_on_clips_whose_separators_are_in_no_budget(folder, here):
    code, out, error = here(
        "verify", "dycoke", "--model", "video_llava", "--task", "synth_video_qa", "--json", cwd=folder
    )
    assert code == 0, error
    assert "100%: 16/16" in json.loads(out)[0]["found"]


@pytest.mark.parametrize(("ref", "full"), [("OpenGVLab/InternVL3-8B-hf", 256), ("Qwen/Qwen3-VL-8B-Instruct", 576)])
def test_flops_of_a_family_need_no_weights(folder, here, ref, full):
    code, out, error = here(
        "cost", "--model", ref, "--method", "none", "--method", "divprune", "--budget", "64", "--json", cwd=folder,
    )  # fmt: skip
    assert code == 0, error
    assert [row["tokens_entering"] for row in json.loads(out)] == [full, 64]


def test_every_family_is_swept_by_its_folder_alone(folder, here):
    names = list(families.FAMILIES)
    models = [word for name in names for word in ("--model", name)]
    code, _, error = here(
        "sweep", "--task", "images_qa", "--data", "images_qa=data", *models, "--method", "divprune", "--method",
        "fastv", "--budget", "60%", "--no-floors", "--limit", "2", "--out", "all", cwd=folder,
    )  # fmt: skip
    assert code == 0, error
    cells = pd.read_parquet(folder / "all" / "cells.parquet")
    cells = cells[(cells.metric == "vqa_match") & cells.slice.isna()].set_index(["model", "method"])
    for name in names:
        none, cut = cells.loc[(name, "none")], cells.loc[(name, "divprune")]
        assert {cells.loc[(name, method)].n_failed for method in ("none", "divprune", "fastv")} == {0}
        assert none.tokens_mean == none.tokens_full > cut.tokens_mean
        assert none.flops > cells.loc[(name, "fastv")].flops
        assert none.tokens_kv == none.tokens_mean
