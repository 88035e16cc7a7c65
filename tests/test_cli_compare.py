"""`toksweep compare` as it is typed: what stands on which stream, and with which exit code."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from result_folders import EXACT
from sweeps import folder_of, method, untouched
from toksweep.cli import main

FULL = np.repeat([1.0, 0.0], [50, 10])
CUT = np.repeat([0.0, 1.0, 0.0], [15, 39, 6])


@pytest.fixture
def typed(tmp_path, monkeypatch, capsys):
    """Type a comparison in a folder; exit code, standard output and standard error."""
    changed = replace(EXACT, protocol="exact_match/v2")
    other = method("fastv", 8, CUT)
    folder = folder_of(
        tmp_path / "x", untouched(FULL), method("tome", 8, CUT), (replace(other[0], metrics=(changed,)), other[1])
    )
    writer = folder.question_writer("w")
    for n in range(60):
        writer.append({"fingerprint": f"f{n}", "question": f"Which is\nnumber {n}?", "answers": [str(n), f"no. {n}"]})
    writer.close()

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["toksweep", "compare", str(tmp_path / "x"), *args])
        with pytest.raises(SystemExit) as end:
            main()
        return (end.value.code, *capsys.readouterr())

    return run


def test_the_terminal_has_the_test_and_the_first_flips(typed):
    code, out, err = typed("none", "tome@8")
    assert (code, err) == (0, "")
    assert "Right at none, wrong at tome@8 (exact_match of images_qa): 15, the first 10; --json has all" in out
    assert "Right at tome@8, wrong at none (exact_match of images_qa): 4\n" in out
    assert out.count("none 0") == 1
    assert out.count("Which is number 0?") == out.count("0 / no. 0") == 1


def test_json_has_all_flips_with_their_answers(typed):
    code, out, _ = typed("none", "tome@8", "--json")
    (row,) = json.loads(out)
    assert code == 0
    assert len(row["flips"]["lost"]) == row["mcnemar"]["lost"] == 15
    first = row["flips"]["gained"][0]
    assert (first["prediction_a"], first["prediction_b"]) == ("none 50", "tome 50")
    assert (first["question"], first["answers"]) == ("Which is\nnumber 50?", ["50", "no. 50"])


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("none", "tom@8"), "There is no cell 'tom@8'"),
        (("none", "tome@many"), "Budget 'many' is not a number"),
        (("none", "fastv@8"), "cannot be compared: the protocols differ in v1 against v2:"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence_and_exit_code_2(typed, args, says):
    code, _, err = typed(*args)
    assert code == 2
    assert err.startswith("Error: ")
    assert says in err
    assert err.count("\n") == 1
