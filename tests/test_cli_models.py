"""Sweeps of compressors in a model, and the regression check, from the command line."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import tiny
from test_cli import records, table, toksweep

FLAGS = ["--model", "tiny/model", "--task", "images_qa", "--data", "images_qa=tiny/data", "--max-new-tokens", "3"]

PICK = """
from toksweep import Reduction, compressor

@compressor("{name}", places=("projector",))
def {name}(view, keep):
    '''Keep tokens from a fixed place on.'''
    import torch
    {refuse}
    picks = torch.arange({start}, {start} + keep + {more})
    return Reduction.keep(picks.expand(len(view.tokens), -1), view.tokens.shape[1], position="renumber")
"""


REFUSE = """from toksweep.harness.contracts import Refusal
    if (view.tokens[..., 0].argmax(1) % 2 == 0).any():
        raise Refusal("is brightest at an even place")"""


def method(folder, name, start=0, more=0, refuse=""):
    """A method file of a third party."""
    (folder / f"{name}.py").write_text(PICK.format(name=name, start=start, more=more, refuse=refuse))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a tiny model and questions."""
    folder = tmp_path_factory.mktemp("models")
    tiny.save_llava(folder / "tiny" / "model")
    tiny.save_questions(folder / "tiny" / "data")
    return folder


@pytest.fixture(scope="module")
def swept(home):
    """All compressors at two budgets, one sample at a time."""
    methods = [f"--method={m}" for m in ("tome", "divprune", "fastv")]
    toksweep("sweep", *FLAGS, *methods, "--budget", "50%", "--budget", "25%", "--out", "one", cwd=home)
    return home / "one"


def headline(folder):
    cells = table(folder)
    return cells[(cells.metric == "vqa_match") & cells["slice"].isna()]


def test_full_tokens_and_floors_belong_to_every_sweep_of_questions(swept):
    cells = headline(swept)
    assert set(cells[cells.floor].label) == {"avgpool", "downsample", "random", "uniform"}
    assert len(cells[cells.label == "none"]) == 1
    assert set(cells[cells.label == "random"].seed) == {0, 1, 2}
    assert set(cells[cells.label == "uniform"].seed) == {0}


def test_tokens_are_counted_as_executed(swept):
    cells = headline(swept).set_index(["label", "budget"])
    assert cells.loc[("divprune", "25%"), "tokens_mean"].item() == 4
    fastv = cells.loc[("fastv", "50%")]
    assert (fastv.tokens_entering.item(), fastv.tokens_mean.item() <= 8) == (16, True)
    assert (cells.tokens_mean <= cells.tokens_full * cells.budget_value.fillna(100) / 100).all()
    assert cells.loc["none"].flops.item() > cells.loc[("divprune", "25%")].flops.item() > 0


class Silent:
    """Progress that nobody watches."""

    def start(self, what, total): ...

    def advance(self, steps=1): ...

    def stop(self): ...


TIRED = PICK.format(name="tired", start=0, more=0, refuse="").replace(
    "    import torch",
    "    import torch\n    TIMES.append(1)\n    if len(TIMES) > 12: raise MemoryError('no room\\nleft')",
)


def timing_flags(home):
    return {
        "models": [str(home / "tiny" / "model")], "tasks": ["images_qa"],
        "data": {"images_qa": str(home / "tiny" / "data")}, "budgets": ["50%"], "floors": False, "latency": True,
        "methods": ["divprune", "fastv", "tome", str(home / "tired.py")], "out": home / "timed", "max_new_tokens": 2,
    }  # fmt: skip


@pytest.fixture(scope="module")
def timed(home):
    """A sweep with the latency probe, in which one method fails after it has answered everything."""
    from toksweep.harness.plan import make_plan
    from toksweep.harness.spec import load_spec
    from toksweep.harness.sweep import run_sweep
    from toksweep.reports.report import report_folder

    (home / "tired.py").write_text("TIMES = []\n" + TIRED)
    run_sweep(make_plan(load_spec(None, timing_flags(home))), command="a test", progress=Silent())
    report_folder(home / "timed")
    return home / "timed"


def test_the_probe_times_every_cell_beside_full_tokens_and_by_phases(timed):
    cells = headline(timed)
    cells = cells[cells.label != "tired"]
    for part in ("latency", "tpot", "vision", "compressor", "prefill"):
        assert (cells[f"{part}_ms"] > 0).all()
        assert (cells[f"{part}_q1_ms"] <= cells[f"{part}_q3_ms"]).all()
    assert cells[cells.label == "none"].latency_ratio.item() == 1
    assert cells.latency_device.str.startswith("cpu: ").all()
    assert cells.peak_memory_bytes.isna().all()
    assert cells.latency_error.isna().all()
    touched = cells[cells.label != "none"]
    assert (touched.break_even_tokens.isna() != touched.break_even_reason.isna()).all()


def test_a_line_of_the_probe_names_device_kernel_and_dtype(timed):
    lines = [json.loads(line) for path in timed.rglob("latency/*/*.jsonl") for line in path.read_text().splitlines()]
    told = [line for line in lines if "error" not in line]
    assert {line["quantity"] for line in told} == {"latency", "tpot", "vision", "compressor", "prefill"}
    assert {(line["kernel"], line["dtype"], line["rounds"]) for line in told} == {("sdpa", "float32", 5)}


def test_a_cell_that_the_probe_cannot_time_is_recorded_with_its_reason_and_the_sweep_has_its_report(timed):
    tired = headline(timed).set_index("label").loc["tired"]
    assert tired.latency_error == "MemoryError: no room left"
    assert tired.n_failed == 0
    assert "MemoryError: no room left" in (timed / "report" / "index.html").read_text()


def test_only_a_cell_that_could_not_be_timed_is_timed_again_and_only_when_told_so(timed, home):
    from toksweep.harness.plan import make_plan
    from toksweep.harness.probing import LatencyProbe
    from toksweep.harness.spec import load_spec
    from toksweep.results.store import ResultsFolder

    def waiting(**more):
        (group,) = make_plan(spec := load_spec(None, timing_flags(home) | more)).groups
        probe = LatencyProbe(group, spec, ResultsFolder(timed), "name", lambda cell, sample: True)
        return [cell.cell.label for cell in probe.untimed()]

    assert waiting() == []
    assert waiting(retry_failed=True) == ["tired"]
    assert waiting(budgets=["25%"]) == ["divprune", "fastv", "tome", "tired"]
    assert waiting(budgets=["25%"], latency=None) == []


def test_a_cache_is_as_large_as_the_closed_form_says(timed):
    from toksweep.harness.cost.closed_form import kv_bytes
    from toksweep.harness.models.published import load_config

    config = load_config(str(timed.parent / "tiny" / "model"))
    lines = [json.loads(line) for text in records(timed).values() for line in text.splitlines()]
    assert len({line["kv_bytes"] for line in lines}) > 2
    for line in lines:
        assert line["kv_bytes"] == kv_bytes(config, "float32", line["text_tokens"], line["tokens_per_layer"])


def test_a_batch_gives_the_records_of_its_samples_one_by_one(home, swept):
    methods = [f"--method={m}" for m in ("tome", "divprune", "fastv")]
    args = ["sweep", *FLAGS, *methods, "--budget", "50%", "--budget", "25%", "--batch-size", "4", "--out", "four"]
    told = json.loads(toksweep(*args, "--json", cwd=home).stdout)
    assert told["tally"]["failed"] == 0

    def lines(folder):
        return {line for text in records(folder).values() for line in text.decode().splitlines()}

    assert lines(home / "four") == lines(swept)


def test_the_tower_sees_a_picture_once_for_all_cells_that_can_share_it(home):
    """Counted in the real model class: one pass shared, one for each cell that changes the encoding."""
    from toksweep.harness.plan import make_plan
    from toksweep.harness.runner import run
    from toksweep.harness.spec import load_spec
    from toksweep.results.store import ResultsFolder
    from torch.nn.modules.module import register_module_forward_hook

    flags = {
        "models": [str(home / "tiny" / "model")], "tasks": ["images_qa"],
        "data": {"images_qa": str(home / "tiny" / "data")},
        "methods": ["divprune", "fastv", "tome"], "budgets": ["50%", "25%"], "limit": 1, "floors": False,
        "out": home / "counted", "max_new_tokens": 1,
    }  # fmt: skip
    passes = []

    def count(module, inputs, output):
        if type(module).__name__ == "CLIPVisionModel" and module.device.type != "meta":  # there FLOPs are counted
            passes.append(1)

    hook = register_module_forward_hook(count)
    try:
        tally = run(make_plan(load_spec(None, flags)), ResultsFolder(home / "counted"), Silent())
    finally:
        hook.remove()
    assert tally.computed == 7
    assert len(passes) == 1 + 2


def test_a_third_partys_file_is_swept_and_its_broken_promise_is_a_failure_with_its_reason(home):
    method(home, "greedy", more=1)
    method(home, "picky", refuse=REFUSE)
    method(home, "pick")
    files = [f"--method={name}.py" for name in ("pick", "greedy", "picky")]
    toksweep("sweep", *FLAGS, *files, "--budget=50%", "--no-floors", "--batch-size=4", "--out=files", cwd=home)
    cells = headline(home / "files").set_index("label")
    assert cells.loc["pick", "n_failed"] == 0
    assert cells.loc["greedy", "n_failed"] == cells.loc["greedy", "n"] == 6
    lines = [json.loads(line) for text in records(home / "files").values() for line in text.splitlines()]
    (error,) = {line["error"].replace(line["sample_id"], "") for line in lines if line["status"] == "failed"}
    assert "greedy" in error
    assert "9" in error
    # of a batch, only those samples are infeasible whose pictures the method refuses
    assert cells.loc["picky", "n_failed"] == 0
    assert 0 < cells.loc["picky", "n_infeasible"] < 6


def test_the_check_is_silent_on_a_rerun_and_catches_a_compressor_that_keeps_the_wrong_tokens(home):
    def sweep(start, out):
        method(home, "pick", start)
        toksweep("sweep", *FLAGS, "--method", "pick.py", "--budget", "50%", "--no-floors", "--out", out, cwd=home)

    sweep(0, "good")
    toksweep("check", "good", "--baseline", "b.json", "--update-baseline", cwd=home)
    sweep(0, "again")
    assert toksweep("check", "again", "--baseline", "b.json", cwd=home, check=False).returncode == 0
    sweep(8, "wrong")
    caught = toksweep("check", "wrong", "--baseline", "b.json", "--json", cwd=home, check=False)
    assert caught.returncode == 1
    assert "keeps other tokens in 6 samples" in caught.stdout


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--budget", "17"], "above the full count of 16"),
        (["--budget", "64", "--model", "tiny/empty"], "config.json"),
        (["--budget", "8", "--device", "cuda:7"], "cuda"),
        (["--budget", "8", "--device", "cuda:7", "--dry-run"], "not there; this machine has: "),
        (["--budget", "8", "--attn", "magic"], "magic"),
        (["--budget", "8", "--attn", "flash_attention_2"], "take --attn sdpa"),
        (["--budget", "1bpp", "--no-floors"], "bits per pixel"),
        (["--budget", "8", "--method", "fastv(layer=99)", "--no-floors"], "layers 1 to 5"),
        (["--budget", "5%", "--method", "fastv", "--no-floors"], "smallest reachable is 2.66667 (16.67%)"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_exit_code_2(home, args, says, here):
    (home / "tiny" / "empty").mkdir(exist_ok=True)
    method = [] if "--method" in args else ["--method", "divprune"]
    flags = [a for a in FLAGS if "--model" not in args or a not in ("--model", "tiny/model")]
    code, _, told = here("sweep", *flags, *method, *args, "--out", "bad", cwd=home)
    assert code == 2
    assert says in told
    assert "Traceback" not in told


def test_a_question_that_a_model_cannot_be_asked_is_a_bad_input_in_every_cell(home):
    folder = home / "odd"
    shutil.copytree(home / "tiny" / "data", folder)
    with Path(folder, "annotations.jsonl").open("a") as file:
        file.write('{"file": "images/0.png", "question": "what is <image>?", "answers": ["red"]}\n')
    flags = [*FLAGS[:5], "images_qa=odd", "--max-new-tokens", "1", "--batch-size", "4", "--no-floors"]
    toksweep("sweep", *flags, "--method", "divprune", "--budget", "8", "--out", "odd-out", cwd=home)
    cells = headline(home / "odd-out")
    assert set(cells.n_bad_input) == {1}
    assert set(cells.n) == {6}


def test_a_malformed_question_file_names_its_line(home, here):
    folder = home / "broken"
    shutil.copytree(home / "tiny" / "data", folder)
    with Path(folder, "annotations.jsonl").open("a") as file:
        file.write('{"file": "images/0.png", "question": "?"\n')
    flags = [*FLAGS[:5], "images_qa=broken"]
    code, _, told = here("sweep", *flags, "--method", "divprune", "--budget", "8", "--out", "bad", cwd=home)
    assert code == 2
    assert "line 7" in told


def test_the_parquet_file_reads_back_with_its_columns(swept):
    from toksweep.results.records import COLUMNS

    assert list(pd.read_parquet(swept / "cells.parquet").columns) == list(COLUMNS)


def test_a_method_of_clips_and_one_without_its_text_encoder_are_refused_by_the_plan(home):
    methods = ["--method", "dycoke", "--method", "cdpruner", "--method", "divprune"]
    done = toksweep("sweep", *FLAGS, *methods, "--budget", "50%", "--dry-run", "--json", cwd=home)
    reasons = {r["method"]: r["reason"] for r in json.loads(done.stdout)["refused"]}
    assert "images_qa shows no clips" in reasons["dycoke"]
    assert "--text-encoder" in reasons["cdpruner"]


def test_a_task_that_was_made_for_a_model_asks_it(home):
    cdpruner = ("--method", "cdpruner", "--budget", "50%")  # it reads the text encoder that comes with the model
    done = toksweep("sweep", "--task", "synth_vqa", *cdpruner, "--limit", "4", "--dry-run", "--json", cwd=home)
    rows = json.loads(done.stdout)["plan"]
    assert "cdpruner" in {row["method"] for row in rows}
    assert {row["model"] for row in rows} == {"toksweep-mini"}
    assert {row["samples"] for row in rows} == {4}
