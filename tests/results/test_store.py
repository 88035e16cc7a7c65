"""The results folder: append, resume, never lose or rewrite a line."""

import json
import subprocess
import sys

import pytest
from toksweep.harness.contracts import UserError
from toksweep.results.records import SampleRecord, Score
from toksweep.results.store import ResultsFolder, new_writer_name

RECORD = SampleRecord(
    "a/b c",
    "pic",
    "f0",
    "ok",
    prediction="x",
    scores={"psnr": Score("p1", "c1", ((31.5, {"size": "small"}),))},
    tokens_per_layer=(4, 4, 2),
    kept_indices=([0, 1], [[0, 2], [1]]),
    bits=80,
    pixels=10,
)


def test_a_record_comes_back_as_it_was(tmp_path):
    folder = ResultsFolder(tmp_path)
    writer = folder.sample_writer("w", new_writer_name())
    writer.append(RECORD.to_json())
    assert folder.records("w") == {"a/b c": RECORD}


def test_the_last_line_wins_within_a_file_and_between_files(tmp_path):
    folder = ResultsFolder(tmp_path)
    for prediction in ("1", "2"):
        writer = folder.sample_writer("w", new_writer_name())
        for status in ("failed", "ok"):
            writer.append(SampleRecord("s", "c", "f", status, prediction=prediction + status).to_json())
    assert folder.records("w")["s"].prediction == "2ok"


def test_a_torn_last_line_is_dropped_and_the_file_left_alone(tmp_path):
    folder = ResultsFolder(tmp_path)
    writer = folder.sample_writer("w", new_writer_name())
    writer.append(RECORD.to_json())
    writer.close()
    whole = writer.path.read_bytes()
    torn = whole + json.dumps(SampleRecord("t", "c", "f", "ok").to_json()).encode()[:-3]
    writer.path.write_bytes(torn)
    assert set(folder.records("w")) == {"a/b c"}
    assert writer.path.read_bytes() == torn
    writer.path.write_bytes(torn + b"}}}")  # complete by chance, but without its line end
    assert set(folder.records("w")) == {"a/b c"}


def test_a_line_is_on_disk_when_append_returns(tmp_path):
    writer = ResultsFolder(tmp_path).sample_writer("w", new_writer_name())
    writer.append({"sample_id": "s"})
    assert writer.path.read_text().endswith("}\n")


def test_processes_that_add_runs_at_once_lose_none(tmp_path):
    ResultsFolder(tmp_path).prepare()
    code = (
        "import sys; from pathlib import Path; from toksweep.results.store import ResultsFolder\n"
        "for i in range(20): ResultsFolder(Path(sys.argv[1])).add_run({'run_id': i})"
    )
    workers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(2)]
    assert [w.wait() for w in workers] == [0, 0]
    assert len(ResultsFolder(tmp_path).runs()) == 40


def test_a_folder_without_a_run_has_nothing_to_report(tmp_path):
    with pytest.raises(UserError, match="nothing to report"):
        ResultsFolder(tmp_path).runs()


def test_a_folder_that_holds_other_things_is_not_written_into(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"holds other things \(thesis\.tex\)"):
        ResultsFolder(tmp_path).prepare()


def test_a_file_in_the_place_of_the_folder_is_one_sentence(tmp_path):
    (tmp_path / "f").touch()
    with pytest.raises(UserError, match="cannot be written"):
        ResultsFolder(tmp_path / "f").prepare()


def test_a_broken_run_file_is_named(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json cannot be read"):
        ResultsFolder(tmp_path).runs()
