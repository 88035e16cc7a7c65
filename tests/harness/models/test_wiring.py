"""Our cuts against the authors' patched models, run on tiny random weights."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from toksweep.harness.registry import registry
from toksweep.harness.verify import agree
from toksweep.harness.wiring import module_of, replay

FOLDER = os.environ.get("TOKSWEEP_REFERENCE")
pytestmark = pytest.mark.skipif(not FOLDER, reason="TOKSWEEP_REFERENCE names no folder of reference arrays")

HELD = {
    "aim", "cdpruner", "divprune", "duet_vlm", "fastervlm", "fastv", "hiprune", "hired", "prumerge", "prumerge_plus",
    "pyramiddrop", "sparsevlm", "visiondrop", "visionzip", "vispruner",
}  # fmt: skip
"""Methods whose whole models are rerun here."""

NOT_RERUN = {("wiring_hired_next", "next_2x1_n16_swapped"): "a released bug: rows and columns are swapped"}


def files():
    return sorted(Path(FOLDER).glob("wiring_*.npz")) if FOLDER else []


def cases():
    for path in files():
        with np.load(path) as file:
            names = dict.fromkeys(key.partition("/")[0] for key in file.files)
        yield from ((path.stem, name) for name in names if (path.stem, name) not in NOT_RERUN)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize(("stem", "name"), list(cases()))
def test_lengths_positions_caches_logits_and_tokens_are_those_of_the_authors_model(stem, name, kernel):
    with np.load(Path(FOLDER) / f"{stem}.npz") as file:
        arrays = {key: file[key] for key in file.files if key.startswith(f"{name}/")}
    given, wanted = (
        {key.removeprefix(f"{name}/{part}/"): array for key, array in arrays.items() if f"/{part}/" in key}
        for part in ("in", "out")
    )
    entry = json.loads((Path(FOLDER) / "INDEX.json").read_text())[stem]
    found = replay(module_of(stem, entry["method"]), given, attention=kernel)
    assert [key for key in wanted if key not in found] == []
    wrong = [key for key, want in wanted.items() if not agree(want, found[key], rtol=1e-4, atol=1e-4)]
    assert wrong == []


def test_every_file_is_rerun_or_said_not_to_be():
    index = json.loads((Path(FOLDER) / "INDEX.json").read_text())
    for path in files():
        module = module_of(path.stem, index[path.stem]["method"])
        assert module is not None


def test_the_methods_that_claim_wiring_are_those_held_here():
    assert {e.name for e in registry("methods") if e.meta.get("verified") == "wiring"} == HELD
