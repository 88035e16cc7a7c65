"""How arrays are compared, and what a folder of them may look like."""

import json

import numpy as np
import pytest
from toksweep.harness.contracts import UserError
from toksweep.harness.verify import agree, verify_reference

ENTRY = {"method": "divprune", "level": "selection", "tolerance": {"rtol": 1e-4, "atol": 1e-5}, "order_free": []}
POINTS = np.array([[1, 0], [1, 0.1], [0, 1], [-1, 0]], dtype=np.float32)


def folder(path, entry=None, name="divprune", **arrays):
    (path / "INDEX.json").write_text(json.dumps({name: {**ENTRY, **(entry or {})}}))
    np.savez(path / f"{name}.npz", **{k.replace("__", "/"): v for k, v in arrays.items()})
    return path


def case(kept):
    return {"c__in__features": POINTS, "c__in__k": np.int64(2), "c__out__kept_indices": np.array(kept)}


def test_an_array_that_agrees_is_right(tmp_path):
    # The last point is farthest from its nearest neighbour, the first is farthest from the last.
    (report,) = verify_reference(folder(tmp_path, **case([0, 3]))).files
    assert (report.status, report.right, report.expected) == ("ok", 1, 1)


def test_a_wrong_array_is_named_and_counted(tmp_path):
    verification = verify_reference(folder(tmp_path, **case([0, 1]), d__out__missing=np.zeros(1)))
    (report,) = verification.files
    assert (report.status, report.right, report.expected) == ("wrong", 0, 2)
    assert report.first_wrong == "c/out/kept_indices"
    assert not verification.ok
    assert verification.reached("divprune") == set()


def test_an_output_array_never_reaches_the_method(tmp_path):
    arrays = {**case([0, 1]), "c__out__features": np.zeros((4, 2), np.float32)}
    dump = tmp_path / "dump"
    verify_reference(folder(tmp_path, **arrays), dump)
    with np.load(dump / "divprune.npz") as file:
        assert file.files == ["c/out/kept_indices"]
        assert file["c/out/kept_indices"].shape == (2,)


@pytest.mark.parametrize(("entry", "listed"), [
    ({"not_judged": ["c"]}, "c: not judged"), ({"model_cases": ["c*"]}, "c: whole model"),
])  # fmt: skip
def test_cases_that_are_not_run_are_listed(tmp_path, entry, listed):
    (report,) = verify_reference(folder(tmp_path, entry, **case([0, 1]))).files
    assert (report.status, report.expected, report.listed) == ("ok", 0, (listed,))


def test_a_method_that_is_not_registered_is_absent_and_leaves_no_file(tmp_path):
    dump = tmp_path / "dump"
    (report,) = verify_reference(folder(tmp_path, {"method": "someday"}, "someday", **case([0, 1])), dump).files
    assert (report.status, report.reason) == ("absent", "someday is not registered")
    assert not list(dump.iterdir())


def test_whole_models_are_listed_as_skipped(tmp_path):
    (report,) = verify_reference(folder(tmp_path, {"level": "model"}, **case([0, 1]))).files
    assert report.status == "skipped"
    assert "level model: a model that no family of ours serves" in report.reason


@pytest.mark.parametrize(("want", "got", "free", "same"), [
    ([1, 2, 3], [3, 2, 1], False, False), ([1, 2, 3], [3, 2, 1], True, True), ([1, 2, 3], [3, 2, 2], True, False),
    ([0, 0, 1], [5, 5, 2], True, True), ([0, 0, 1], [5, 2, 2], True, False), ([0, 0, 1], [5, 5, 5], True, False),
    ([1.0, 2.0], [2.0, 1.00001], True, True), ([1.0, 2.0], [1.00001, 2.0], False, True),
    ([[1.0, 2.0], [3.0, 4.0]], [[3.0, 4.0], [1.0, 2.0]], True, True),
    ([[1.0, 2.0], [3.0, 4.0]], [[3.0, 2.0], [1.0, 4.0]], True, False),
    ([[1.0, 2.0], [1.0, 2.0]], [[1.0, 2.0], [3.0, 4.0]], True, False),
    ([1.0], [1], False, False), ([1, 2], [1, 2, 3], True, False),
])  # fmt: skip
def test_agreement(want, got, free, same):
    assert agree(np.array(want), np.array(got), order_free=free, rtol=1e-4, atol=1e-5) == same


def test_a_folder_that_holds_no_arrays_is_named(tmp_path):
    with pytest.raises(UserError, match=r"INDEX\.json cannot be read"):
        verify_reference(tmp_path)
    (tmp_path / "INDEX.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        verify_reference(tmp_path)
    folder(tmp_path)
    (tmp_path / "divprune.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(UserError, match=r"divprune\.npz cannot be read"):
        verify_reference(tmp_path)


def test_a_missing_input_is_named(tmp_path):
    with pytest.raises(UserError, match="case c lacks the array in/k, which divprune needs"):
        verify_reference(folder(tmp_path, c__in__features=POINTS))


def test_an_unknown_method_is_named(tmp_path):
    with pytest.raises(UserError, match="divprun"):
        verify_reference(folder(tmp_path, **case([0, 1])), methods=["divprun"])
