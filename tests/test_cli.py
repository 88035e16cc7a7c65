"""The command line from end to end, as users run it: a process of its own, real pictures, real codecs."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

RUN = [sys.executable, "-c", "from toksweep.cli import main; main()"]
CODECS = [
    "--task",
    "photos",
    "--method",
    "jpeg",
    "--method",
    "webp",
    "--budget",
    "0.5bpp",
    "--budget",
    "1bpp",
    "--no-latency",
]


def toksweep(*args, cwd, check=True, **options):
    """Run a command; its finished process."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*RUN, *map(str, args)], capture_output=True, text=True, cwd=cwd, env=env, check=False, **options
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def records(folder):
    """The bytes of every sample file."""
    return {p: p.read_bytes() for p in sorted(Path(folder).rglob("samples/**/*.jsonl"))}


def table(folder):
    """cells.parquet without what names the run."""
    cells = pd.read_parquet(Path(folder) / "cells.parquet")
    return cells.sort_values(["task", "label", "budget_value", "metric", "slice"]).reset_index(drop=True)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A finished sweep of codecs on three photographs."""
    home = tmp_path_factory.mktemp("swept")
    done = toksweep("sweep", *CODECS, "--limit", 3, "--out", "a", "--json", cwd=home)
    return home / "a", json.loads(done.stdout)


def test_a_sweep_writes_records_cells_and_a_report(swept):
    folder, told = swept
    cells = table(folder)
    assert set(cells.label) == {"none", "jpeg", "webp"}
    assert (cells.n == 3).all()
    assert (
        cells[(cells.label == "jpeg") & (cells.metric == "psnr")].bits_per_pixel
        <= cells[(cells.label == "jpeg") & (cells.metric == "psnr")].budget_value
    ).all()
    assert Path(folder, "report", "index.html").stat().st_size > 10_000
    assert told["tally"]["computed"] == 3 * 5
    assert told["refused"] == []
    assert len(told["cells"]) == len(cells)


def test_what_is_finished_is_never_computed_again(swept):
    folder, _ = swept
    before = records(folder)
    again = json.loads(toksweep("sweep", *CODECS, "--limit", 3, "--out", folder, "--json", cwd=folder).stdout)
    assert again["tally"]["computed"] == 0
    assert records(folder) == before


def test_raising_the_limit_or_adding_a_method_computes_only_what_is_new(swept):
    folder, _ = swept
    more = toksweep("sweep", *CODECS, "--limit", 4, "--method", "lowres", "--out", folder, "--json", cwd=folder)
    assert json.loads(more.stdout)["tally"]["computed"] == 5 + 2 * 4
    assert set(table(folder).n) == {4}


def test_cells_are_the_same_alone_or_in_a_sweep(swept, tmp_path):
    folder, _ = swept
    toksweep(
        "sweep",
        "--task",
        "photos",
        "--method",
        "webp",
        "--budget",
        "1bpp",
        "--limit",
        3,
        "--no-latency",
        "--out",
        "b",
        cwd=tmp_path,
    )
    alone = {p.parent.name: p.read_text() for p in records(tmp_path / "b")}
    assert alone
    together = {p.parent.name: "".join(q.read_text() for q in sorted(p.parent.iterdir())) for p in records(folder)}
    for work_id, lines in alone.items():
        assert set(lines.splitlines()) <= set(together[work_id].splitlines())


def test_a_killed_sweep_goes_on_where_it_stopped(tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*RUN, "sweep", *CODECS, "--limit", "6", "--out", "killed"]
    process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and sum(b.count(b"\n") for b in records(tmp_path / "killed").values()) < 8:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = records(tmp_path / "killed")
    done = sum(b.count(b"\n") for b in before.values())
    assert 8 <= done < 30, "the sweep was to be killed in the middle"
    toksweep("sweep", *CODECS, "--limit", 6, "--out", "killed", cwd=tmp_path)
    after = records(tmp_path / "killed")
    assert all(after[p] == b for p, b in before.items())
    assert sum(b.count(b"\n") for b in after.values()) == 30
    toksweep("sweep", *CODECS, "--limit", 6, "--out", "whole", cwd=tmp_path)
    pd.testing.assert_frame_equal(table(tmp_path / "killed"), table(tmp_path / "whole"))


def test_two_processes_on_one_folder_do_not_harm_each_other(tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*RUN, "sweep", *CODECS, "--limit", "2", "--out", "both"]
    pair = [subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [p.wait() for p in pair] == [0, 0]
    cells = table(tmp_path / "both")
    assert (cells.status == "complete").all()
    assert (cells.n == 2).all()


def test_a_corrupt_picture_is_counted_in_every_cell_alike(tmp_path):
    from PIL import Image
    from skimage import data

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.fromarray(data.astronaut()[:192, :192]).save(pictures / "good.png")
    (pictures / "bad.png").write_bytes((pictures / "good.png").read_bytes()[:500])
    toksweep("sweep", *CODECS, "--data", f"photos={pictures}", "--out", "r", cwd=tmp_path)
    cells = table(tmp_path / "r")
    assert set(cells.n_bad_input) == {1}
    assert set(cells.n) == {1}
    assert set(cells.n_failed) == {0}


def test_a_crash_of_a_codec_is_a_failure_of_that_codec_and_the_sweep_goes_on(tmp_path):
    (tmp_path / "fragile.py").write_text(
        "from toksweep import Codes, tokenizer\n"
        "@tokenizer('fragile')\n"
        "class Fragile:\n"
        "    '''Breaks.'''\n"
        "    def encode(self, image, budget, memo): raise RuntimeError('out of glue')\n"
        "    def decode(self, codes): ...\n"
    )
    done = toksweep(
        "sweep",
        "--task",
        "photos",
        "--method",
        "fragile.py",
        "--method",
        "jpeg",
        "--budget",
        "1bpp",
        "--limit",
        2,
        "--no-latency",
        "--out",
        "r",
        "--json",
        cwd=tmp_path,
    )
    cells = table(tmp_path / "r")
    fragile = cells[(cells.label == "fragile") & (cells.metric == "ssim")].iloc[0]
    assert (fragile.n_failed, fragile.value) == (2, fragile.worst)
    assert cells[cells.label == "jpeg"].n_failed.max() == 0
    assert json.loads(done.stdout)["tally"]["failed"] == 2
    record = json.loads(next(b for b in records(tmp_path / "r").values() if b"out of glue" in b).splitlines()[0])
    assert record["error"] == "RuntimeError: out of glue"


def test_changing_a_method_recomputes_it_and_its_old_records_leave_the_table(tmp_path):
    source = (
        "from toksweep import Codes, tokenizer\n"
        "@tokenizer('grey')\n"
        "class Grey:\n"
        "    '''A flat picture.'''\n"
        "    def encode(self, image, budget, memo): return Codes(bytes(image.size), '.bin', 16)\n"
        "    def decode(self, codes):\n"
        "        from PIL import Image\n"
        "        return Image.new('RGB', SIZE, (LEVEL,) * 3)\n"
    )
    from PIL import Image
    from skimage import data

    (tmp_path / "p").mkdir()
    Image.fromarray(data.astronaut()[:64, :64]).save(tmp_path / "p" / "a.png")
    flags = [
        "sweep",
        "--task",
        "photos",
        "--data",
        "photos=p",
        "--method",
        "grey.py",
        "--budget",
        "1bpp",
        "--no-latency",
        "--out",
        "r",
        "--json",
    ]
    told = []
    for level in (10, 10, 128):
        (tmp_path / "grey.py").write_text(source.replace("SIZE", "(64, 64)").replace("LEVEL", str(level)))
        told.append(json.loads(toksweep(*flags, cwd=tmp_path).stdout))
    assert [t["tally"]["computed"] for t in told] == [2, 0, 1]
    psnr = [next(c["value"] for c in t["cells"] if c["label"] == "grey" and c["metric"] == "psnr") for t in told]
    assert psnr[0] == psnr[1] != psnr[2]
    assert sum(c["label"] == "grey" and c["metric"] == "psnr" for c in told[2]["cells"]) == 1


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["sweep", "--task", "photos", "--method", "jpg", "--budget", "1bpp"], "near: jpeg"),
        (["sweep", "--task", "photoz"], "near: photos"),
        (["sweep", "--task", "photos", "--method", "jpeg", "--budget", "0"], "not above 0"),
        (["sweep", "--task", "photos", "--method", "jpeg", "--budget=-1bpp"], "not above 0"),
        (["sweep", "--task", "photos", "--method", "jpeg", "--budget", "lots"], "not a number"),
        (
            ["sweep", "--task", "photos", "--method", "divprune", "--budget", "64"],
            "is a compressor and acts in a model",
        ),
        (["sweep", "--task", "photos", "--method", "jpeg", "--budget", "64"], "jpeg takes a budget such as 0.5bpp"),
        (["sweep", "--task", "photos", "--data", "photos=empty"], "empty"),
        (["sweep", "--task", "photos", "--data", "photos=nowhere"], "no such folder"),
        (["sweep", "--task", "photos", "--data", "photos"], "must be TASK=DIR"),
        (["sweep", "--task", "images_qa", "--data", "images_qa=empty"], "add --model"),
        (["sweep", "--out", "file.txt/x"], "cannot be written"),
        (["sweep", "--ocr", "tea-leaves"], "tea-leaves"),
        (["sweep", "none.yaml"], "none.yaml cannot be read"),
        (["sweep", "bad.yaml"], "is not valid YAML"),
        (["report", "empty"], "nothing to report"),
        (["report", "nowhere"], "nothing to report"),
        (["check", "empty", "--baseline", "b.json"], "b.json|nothing to report"),
        (["verify"], "--reference"),
        (["verify", "divprune", "--dump", "there"], "add --reference"),
        (["verify", "--reference", "nowhere"], "nowhere"),
        (["cost", "--model", "nobody/nothing", "--method", "none"], "nobody/nothing"),
        (["list", "meals"], "meals"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(args, says, tmp_path, here):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    (tmp_path / "bad.yaml").write_text("tasks: [a\n")
    code, printed, told = here(*args, cwd=tmp_path)
    assert code == 2
    assert re.search(says, told), told
    assert "Traceback" not in told
    assert printed == ""


def test_a_dry_run_shows_the_plan_and_why_what_is_refused_is_refused(tmp_path):
    args = [
        "sweep",
        "--task",
        "photos",
        "--method",
        "jpeg",
        "--method",
        "fastv",
        "--budget",
        "1bpp",
        "--limit",
        "2",
        "--dry-run",
    ]
    told = json.loads(toksweep(*args, "--json", cwd=tmp_path).stdout)
    assert [(r["method"], r["to_do"]) for r in told["plan"]] == [("none", 2), ("jpeg", 2)]
    assert [r["method"] for r in told["refused"]] == ["fastv"]
    assert not (tmp_path / "toksweep-out").exists()
    assert "Refused: fastv" in toksweep(*args, cwd=tmp_path).stderr


@pytest.mark.parametrize("what", ["methods", "tasks", "models", "metrics"])
def test_everything_that_can_be_asked_for_is_listed_as_json(what, tmp_path):
    rows = json.loads(toksweep("list", what, "--json", cwd=tmp_path).stdout)
    assert rows
    if what == "methods":
        keys = {"name", "kind", "places", "needs", "floor", "budget_kind", "paper", "repository", "verified"}
        assert all(keys <= set(r) for r in rows)


def test_doctor_says_what_is_ready_and_how_to_get_the_rest(tmp_path):
    rows = {r["name"]: r for r in json.loads(toksweep("doctor", "--json", cwd=tmp_path).stdout)}
    assert rows["rapidocr"]["ready"]
    assert rows["dlib"]["ready"]
    assert all(r["ready"] or r["how_to_get"] for r in rows.values())
