"""Every registered method against the arrays of its authors' code."""

import os
from pathlib import Path

import numpy as np
import pytest
from toksweep.harness.registry import registry
from toksweep.harness.verify import verify_reference

FOLDER = os.environ.get("TOKSWEEP_REFERENCE")
pytestmark = pytest.mark.skipif(not FOLDER, reason="TOKSWEEP_REFERENCE names no folder of reference arrays")


SHARED = {"prumerge_plus": "prumerge", "titok": "quantizer_titok"}
"""Methods whose cases are in another's files."""


@pytest.fixture(scope="module")
def verification(tmp_path_factory):
    dump = tmp_path_factory.mktemp("dump")
    return verify_reference(Path(FOLDER), dump), dump


@pytest.mark.parametrize(("file", "expected"), [
    ("tome.npz", 61), ("divprune.npz", 5), ("fastv.npz", 21), ("pyramiddrop.npz", 24), ("dart.npz", 5),
    ("sparsevlm.npz", 63), ("visiondrop.npz", 14), ("aim.npz", 28), ("holitom.npz", 12), ("dycoke.npz", 6),
    ("pitome.npz", 45), ("tinychart.npz", 6), ("auroracap.npz", 8), ("dymu.npz", 54), ("dymu_vlm.npz", 31),
    ("ppe.npz", 16), ("vqtoken.npz", 6), ("centerclip.npz", 23), ("fastvid.npz", 12), ("prunevid.npz", 10),
    ("quantizer_vq.npz", 7), ("quantizer_llamagen.npz", 6), ("quantizer_titok.npz", 4), ("quantizer_ibq.npz", 4),
    ("quantizer_fqgan.npz", 10), ("quantizer_rq.npz", 6), ("quantizer_lfq.npz", 9), ("quantizer_gfq_wetok.npz", 9),
    ("quantizer_bsq.npz", 12), ("quantizer_fsq.npz", 24), ("quantizer_fsq_ports.npz", 42),
    ("quantizer_one_d_piece_tail_drop.npz", 10),
])  # fmt: skip
def test_a_file_agrees_whole(verification, file, expected):
    (report,) = [r for r in verification[0].files if r.file == file]
    assert (report.status, report.right, report.expected, report.first_wrong) == ("ok", expected, expected, None)


def test_nothing_is_wrong_and_what_was_not_run_says_why(verification):
    assert verification[0].ok
    for report in verification[0].files:
        assert report.status == "ok" or report.reason


def test_methods_claim_what_the_arrays_show(verification):
    for entry in registry("methods"):
        if entry.meta.get("verified") in ("selection", "wiring"):
            name = SHARED.get(entry.name, entry.name)
            assert "selection" in verification[0].reached(name), entry.name


def test_a_folder_without_outputs_yields_the_same_dump(verification, tmp_path):
    bare, again = tmp_path / "bare", tmp_path / "again"
    bare.mkdir()
    for name in ("INDEX.json", "tome.npz", "divprune.npz", "fastv.npz", "catanet.npz"):
        source = Path(FOLDER) / name
        if source.suffix == ".json":
            (bare / name).write_bytes(source.read_bytes())
        else:
            with np.load(source) as file:
                np.savez(bare / name, **{k: file[k] for k in file.files if k.split("/")[1] == "in"})
    report = verify_reference(bare, again)
    assert {r.file: (r.status, r.expected) for r in report.files} == {
        "catanet.npz": ("absent", 0), "divprune.npz": ("ok", 0), "fastv.npz": ("ok", 0), "tome.npz": ("ok", 0),
    }  # fmt: skip
    assert sorted(p.name for p in again.iterdir()) == ["divprune.npz", "fastv.npz", "tome.npz"]
    for path in again.iterdir():
        with np.load(path) as ours, np.load(verification[1] / path.name) as theirs:
            assert ours.files == theirs.files
            assert all(np.array_equal(ours[k], theirs[k]) for k in ours.files)
