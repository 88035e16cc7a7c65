"""lmms-eval tasks through our runner: lmms-eval's own figures, fair subsets, failures; lmms-eval itself is imported."""

import json
import shutil
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import lmms_clips
import lmms_local
import pandas as pd
import pytest
from toksweep.harness.models.embedded import embedded
from toksweep.harness.plan import make_plan
from toksweep.harness.spec import load_spec
from toksweep.harness.sweep import run_sweep
from toksweep.results.aggregate import table
from toksweep.results.store import ResultsFolder
from toksweep.tasks.lmms import borrowed
from toksweep.tasks.lmms.frames import film

NAMES = ("yes_no", "word", "letters", "anls", "pairs", "two_pictures", "messages")
FRAGILE = '''
"""A method that fails on some samples."""
import torch
from toksweep import Reduction, View, compressor


@compressor("fragile", places=("projector",))
def fragile(view: View, keep: int) -> Reduction:
    """Fails on every third sample or so, by its seed; that of a count of FLOPs is 0."""
    if view.generators[0].initial_seed() % 3 == 1:
        raise ValueError("this sample is too hard")
    return Reduction.keep(torch.arange(keep)[None].expand(len(view.tokens), keep), sources=view.tokens.shape[1])
'''


@pytest.fixture(scope="module")
def anywhere(tmp_path_factory):
    """Tasks on clips and, where there are real pictures, on those; a tiny LLaVA and a tiny Qwen2.5-VL that answer them;
    the cache of data sets lies beside them."""
    at = tmp_path_factory.mktemp("lmms")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMMS_EVAL_DATASETS_CACHE", str(at / "cache"))
        lmms_clips.save_tasks(at / "local")
        if lmms_local.find_data():
            lmms_local.save_tasks(at / "local")
        lmms_local.save_model(at / "model")
        lmms_clips.save_qwen(at / "qwen")
        (at / "fragile.py").write_text(FRAGILE)
        yield at


@pytest.fixture
def home(anywhere):
    """The same, with tasks on real pictures."""
    lmms_local.data_folder()
    return anywhere


class Quiet:
    """No progress."""

    def start(self, what, total): ...

    def advance(self, steps=1): ...

    def stop(self): ...


def swept(out, names=NAMES, **keys):
    """A sweep of local tasks without its report, which takes longer."""
    tasks = [f"lmms:local_{n}" for n in names]
    asked = {"tasks": tasks, "include_path": ["local/tasks"], "floors": False, "out": out}
    run_sweep(make_plan(load_spec(None, asked | keys)), command="test", progress=Quiet())


def records(folder, task, label):
    """The records of one cell, in the order of its samples."""
    results = ResultsFolder(folder)
    (cell,) = [c for c in results.cells() if (c.task, c.label) == (f"lmms:{task}", label)]
    stored = results.records(cell.work_id)
    return [stored[i] for i in cell.sample_ids]


def with_entry_point(home):
    """A folder for the path that declares our entry point, where the checkout is used without being installed."""
    if "toksweep" in {p.name for p in entry_points(group="lmms_eval.models")}:
        return []
    checkout = Path(__file__).resolve().parents[2]
    declared = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]["entry-points"]["lmms_eval.models"]
    about = home / "site" / "toksweep_plugin-0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toksweep-plugin\nVersion: 0\n")
    lines = [f"{name} = {value}" for name, value in declared.items()]
    (about / "entry_points.txt").write_text("\n".join(["[lmms_eval.models]", *lines, ""]))
    return [str(about.parent)]


def test_predictions_and_figures_are_those_of_lmms_evals_own_command_and_so_are_those_of_our_plug_in(
    anywhere, monkeypatch
):
    """One process of lmms-eval for all of it: it imports for ten seconds and more."""
    home, pictures = anywhere, NAMES if lmms_local.find_data() else ()
    device, sizes = "device=cpu,device_map=cpu", ",".join(f"{k}={v}" for k, v in lmms_clips.SIZES.items())
    llava, mini = f"pretrained={home}/model", embedded()["toksweep-mini"]
    # by the folder of lmms-eval's results: its model, that model's arguments, tasks
    asked = {"qwen": ("qwen2_5_vl", f"pretrained={home}/qwen,{device},{sizes}", (*pictures, "video"))}
    if pictures:
        asked |= {
            "llava": ("llava_hf", f"{llava},{device},dtype=float32", (*NAMES, "group")),
            "plugin": ("toksweep", f"{llava},method=divprune,budget=50%", (*NAMES, "video")),
            "cached": ("toksweep", f"{llava},method=divprune,budget=10%", ("letters",)),
            "mini": ("llava_hf", f"pretrained={mini},{device},dtype=float32", ("synth",)),
        }
    runs = [
        ["--model", model, "--model_args", arguments, "--tasks", ",".join(f"local_{n}" for n in names), "--batch_size",
         "1", "--include_path", f"{home}/local/tasks", "--output_path", str(home / out), "--log_samples",
         *(["--use_cache", str(home / "answers")] if model == "toksweep" else [])]
        for out, (model, arguments, names) in asked.items()
    ]  # fmt: skip
    log = lmms_local.cli(runs, home, with_entry_point(home))
    monkeypatch.chdir(home)
    swept("ours-qwen", asked["qwen"][2], models=["qwen"], methods=["none"], dtype="bf16", **lmms_clips.SIZES)
    if pictures:
        swept("ours", (*NAMES, "video", "group"), models=["model"], methods=["divprune"], budgets=["50%"])
        swept("ours-mini", ["synth"], models=["toksweep-mini"], methods=["none"])
    ours = {"llava": "ours", "plugin": "ours", "mini": "ours-mini", "qwen": "ours-qwen"}
    for theirs, (_, _, names) in ((k, v) for k, v in asked.items() if k in ours):
        label = "divprune" if theirs == "plugin" else "none"
        leaves = [f"local_{n}" for n in names if n != "group"]
        found = lmms_local.compare(home / theirs, home / ours[theirs], label, log, leaves)
        for row in found:
            assert row["predictions_differing"] == 0, (theirs, row)
            assert row["figures_differing"] == 0, (theirs, row)
        assert sum(row["samples"] for row in found) >= (12 if len(leaves) == 1 else 96)
        lively = [value for row in found for value, _ in row["figures"].values() if 0 < value < 200]
        assert len(lively) >= min(3, len(leaves)), found
    assert len({r.prediction for r in records(home / "ours-qwen", "local_video", "none")}) >= 6
    asked = ResultsFolder(home / "ours-qwen").questions()
    (first, *_) = (asked[r.fingerprint] for r in records(home / "ours-qwen", "local_video", "none"))
    assert first.text.startswith("What is the colour ?\nA. red\nB. two")
    assert first.answers == ("A",)
    if not pictures:
        return
    plugin = lmms_local.results(home / "plugin")
    told = plugin["config"]
    assert (told["model"], "method=divprune,budget=50%" in told["model_args"]) == ("toksweep", True)
    again = lmms_local.results(home / "cached")["samples"]["local_letters"]
    answers = [[s["filtered_resps"] for s in side] for side in (plugin["samples"]["local_letters"], again)]
    assert answers[0] != answers[1]  # one cache for both, which tells the budgets apart
    # the figure that adds up in a module's global state is right for both cells of a sweep
    cells = table(ResultsFolder(home / "ours"))
    (group,) = cells[(cells.task == "lmms:local_group") & (cells.label == "none")].to_dict("records")
    told = lmms_local.results(home / "llava")["results"]["local_group"]
    assert abs(group["value"] - told["exact_match,none"]) <= 1e-9
    assert group["ci_high"] > 0
    totals = cells[(cells.metric == "pair_total") & cells["slice"].isna()].set_index("label")
    for label in ("none", "divprune"):
        right = sum(r.scores["pair_total"].items[0][0] for r in records(home / "ours", "local_pairs", label))
        assert totals.loc[label].value == right / 40


def test_a_limit_takes_the_same_stratified_samples_anywhere_decodes_no_others_and_marks_sums(home, here, tmp_path):
    def swept(out, *flags, include="local/tasks"):
        told = here("sweep", "--task", "lmms:local_pairs", "--include-path", include, "--no-floors", "--model", "model",
                    "--method", "none", "--limit", 8, "--out", out, *flags, cwd=home)  # fmt: skip
        assert told[0] == 0, told
        cells = pd.read_parquet(home / out / "cells.parquet")
        return cells[cells["slice"].isna()], records(home / out, "local_pairs", "none")

    cells, chosen = swept("limited")
    assert set(cells.subset) == {"stratified:8"}
    assert not cells.comparable.any()  # a sum over categories, and a fixed denominator
    assert set(cells.n_bad_input) == {0}
    kinds = [dict(r.scores["pair_total"].items[0][1])["category"] for r in chosen]
    assert len(set(kinds)) > 2
    first, read = swept("first", "--subset", "first", "--dtype", "bf16", "--batch-size", 4)
    assert set(first.n_alone) == {8}  # half precision promises nothing of batches: what flips is counted
    assert first.n_flips.isin(range(9)).all()
    assert cells.n_alone.isna().all()
    assert set(first.subset) == {"first:8"}
    assert [r.sample_id for r in read] != [r.sample_id for r in chosen]
    # the same tasks elsewhere, with the pictures of all other samples spoilt: the same samples, and none of them bad
    lmms_local.spoil(home / "local", tmp_path / "copy", "local_pairs", but=[r.sample_id for r in chosen])
    again, same = swept("again", "--batch-size", 3, include=str(tmp_path / "copy" / "tasks"))
    assert [r.prediction for r in same] == [r.prediction for r in chosen]
    assert [r.sample_id for r in same] == [r.sample_id for r in chosen]
    assert [r.cluster_id for r in same] == [r.cluster_id for r in chosen]
    assert set(again.n_bad_input) == {0}


def test_a_failed_sample_enters_as_an_empty_answer_with_the_worst_score_and_a_spoilt_picture_in_no_cell(
    home, here, tmp_path
):
    lmms_local.spoil(home / "local", tmp_path / "copy", "local_pairs", only=[5])
    code, _, told = here(
        "sweep", "--task", "lmms:local_pairs", "--include-path", tmp_path / "copy" / "tasks", "--no-floors", "--model",
        home / "model", "--method", home / "fragile.py", "--method", "none", "--budget", "50%", "--out",
        tmp_path / "out", cwd=home,
    )  # fmt: skip
    assert code == 0, told
    cells = pd.read_parquet(tmp_path / "out" / "cells.parquet")
    rows = cells[cells["slice"].isna() & (cells.metric == "pair_total")].set_index("label")
    assert list(rows.n_bad_input) == [1, 1]
    assert rows.loc["none"].n_failed == 0
    found = [r for r in records(tmp_path / "out", "local_pairs", "fragile") if r.status != "bad_input"]
    failed = [r for r in found if r.status == "failed"]
    assert 0 < len(failed) < len(found) == 23
    assert rows.loc["fragile"].n_failed == len(failed)
    assert rows.loc["fragile"].n == 23  # the denominator is kept
    for record in failed:
        assert record.prediction is None
        assert record.scores["pair_score"].items[0][0] == 0
        assert record.scores["pair_score"].raw[0]["score"] == 0
    right = sum(r.scores["pair_total"].items[0][0] for r in found)
    assert rows.loc["fragile"].value == right / 40


def test_a_clip_that_cannot_be_decoded_is_in_no_cell_and_every_clip_is_decoded_once_for_all_cells(
    anywhere, monkeypatch
):
    decoded = []
    monkeypatch.chdir(anywhere)
    monkeypatch.setattr(borrowed, "film", lambda path, choose: decoded.append(path.name) or film(path, choose))
    swept("ours-films", ["films"], models=["qwen"], methods=["none", "divprune"], budgets=["50%"], **lmms_clips.SIZES)
    assert sorted(decoded) == sorted(["clip0.mp4", "clip1.mp4", "broken.mp4", "clip3.mp4"] * 3)
    cells = table(ResultsFolder(anywhere / "ours-films")).set_index("label")
    for label in ("none", "divprune"):
        row, found = cells.loc[label], records(anywhere / "ours-films", "local_films", label)
        assert (row.n, row.n_bad_input, row.n_failed, row.status) == (9, 3, 0, "complete")
        bad = [r for r in found if r.status == "bad_input"]
        assert [r.sample_id for r in bad] == [r.sample_id for r in found[6:9]]
        assert all("Invalid data" in r.error for r in bad)


def test_a_task_of_the_catalogue_reads_a_local_copy_of_its_data(home, here, tmp_path):
    from datasets import load_dataset

    rows = load_dataset("parquet", data_files=str(home / "local" / "data" / "local_pairs.parquet"), split="train")
    rows = rows.rename_column("picture", "question_id").remove_columns("category")
    rows = rows.add_column("category", ["existence", "OCR"] * 12)
    (tmp_path / "mme").mkdir()
    rows.to_parquet(tmp_path / "mme" / "test-00000-of-00001.parquet")
    code, out, told = here(
        "sweep", "--task", "lmms:mme", "--data", f"lmms:mme={tmp_path / 'mme'}", "--model", home / "model", "--method",
        "none", "--no-floors", "--out", tmp_path / "out", "--json", cwd=tmp_path,
    )  # fmt: skip
    assert code == 0, told
    cells = {c["metric"]: c for c in json.loads(out)["cells"] if c["slice"] is None}
    assert cells["mme_perception_score"]["n"] == 24
    assert cells["mme_cognition_score"]["value"] is None


@pytest.mark.parametrize(("name", "says"), [
    ("broken_data", "The data of lmms:broken_data"), ("sampled", "wants its answers sampled"),
])  # fmt: skip
def test_a_task_that_cannot_be_asked_says_why(home, here, tmp_path, name, says):
    text = (home / "local" / "tasks" / "local_yes_no.yaml").read_text().replace("local_yes_no", name)
    shutil.copy(home / "local" / "tasks" / "utils.py", tmp_path)
    text = text.replace(f"data/{name}", "data/local_yes_no") if name == "sampled" else text
    (tmp_path / f"{name}.yaml").write_text(
        text.replace("temperature: 0", "temperature: 0.7") if name == "sampled" else text
    )
    code, _, told = here(
        "sweep", "--task", f"lmms:{name}", "--include-path", tmp_path, "--model", home / "model", "--method", "none",
        "--out", tmp_path / "out", cwd=tmp_path,
    )  # fmt: skip
    assert code == 2
    assert says in told
    assert "Traceback" not in told


def test_the_command_lines_reasoning_tags_are_still_what_we_strip():
    from toksweep.tasks.lmms import library

    library.lmms_eval()
    main = (Path(sys.modules["lmms_eval"].__file__).parent / "__main__.py").read_text()
    assert library.REASONING_TAGS in main
