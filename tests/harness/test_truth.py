"""Bugs that released code has had, each planted in a method and caught by the truth test."""

from __future__ import annotations

import json
import os
import re
import textwrap
import time
from pathlib import Path

import families
import numpy as np
import pytest
import torch
from toksweep.harness.contracts import UserError
from toksweep.harness.registry import registry
from toksweep.harness.truth import PROMISES, truth_test

FOLDER = os.environ.get("TOKSWEEP_REFERENCE")

HEAD = """
import torch
from toksweep.harness.contracts import Reduction
from toksweep.harness.registry import compressor

def chosen(view, keep):
    scores = view["class_attention@-2"].mean(1)
    return scores.topk(keep).indices.sort().values
"""

HONEST = """
@compressor("{name}", places=("projector",), needs={needs})
def method(view, keep):
    {body}
"""


@pytest.fixture
def findings(tmp_path, monkeypatch):
    """What the truth test says of a method of that body, by promise."""
    # a file's methods stay registered for good; these must not
    known = dict(registry("methods")._entries)
    numbers = iter(range(99))

    def find(body: str, questions: int = 8, model: str | None = None) -> dict[str, object]:
        name, needs = f"planted{next(numbers)}", () if model else ("class_attention@-2",)
        path = tmp_path / f"{name}.py"
        path.write_text(
            HEAD
            + HONEST.format(name=name, needs=needs, body=textwrap.indent(textwrap.dedent(body).strip(), "    ").strip())
        )
        task = "synth_vqa" if model else None
        return truth_test(registry("methods").get(str(path)), {}, model, task, questions=questions)

    yield find
    registry("methods")._entries.clear()
    registry("methods")._entries.update(known)


def broken(found) -> set[str]:
    return {promise for promise, finding in found.items() if finding.status == "fail"}


def test_an_honest_method_keeps_every_promise(findings):
    found = findings(
        "return Reduction.keep(chosen(view, keep), view.tokens.shape[1], position='renumber')", questions=96
    )
    assert not broken(found)
    assert found["inverted scores do worse"].status == "pass"
    assert list(found) == list(PROMISES)


def test_keeping_the_lowest_scores_is_caught(findings):
    found = findings(
        """
        lowest = (-view["class_attention@-2"].mean(1)).topk(keep).indices.sort().values
        return Reduction.keep(lowest, view.tokens.shape[1], position='renumber')
        """,
        questions=96,
    )
    assert broken(found) == {"inverted scores do worse"}
    assert "highest" in found["inverted scores do worse"].mend


def test_an_identity_that_drops_tokens_is_caught(findings):
    found = findings(
        """
        keep = min(keep, view.tokens.shape[1] - 2)
        return Reduction.keep(chosen(view, keep), view.tokens.shape[1], position='renumber')
        """
    )
    assert "budget honoured, by the ledger" in broken(found)
    assert "asked for 144" in found["budget honoured, by the ledger"].found


def test_an_order_that_is_lost_while_positions_are_renumbered_is_caught(findings):
    found = findings(
        """
        best = view["class_attention@-2"].mean(1).topk(keep).indices
        return Reduction.keep(best, view.tokens.shape[1], position='renumber')
        """
    )
    assert broken(found) == {"raster order kept", "full budget changes nothing"}


def test_one_global_random_stream_is_caught(findings):
    found = findings(
        """
        noise = torch.rand(len(view.tokens), view.tokens.shape[1])
        return Reduction.keep(noise.topk(keep).indices.sort().values, view.tokens.shape[1], position='renumber')
        """
    )
    assert {
        "same seed, same tokens", "a batch of four equals four batches of one",
        "no traffic with files, environment or global randomness",
    } <= broken(found)  # fmt: skip


def test_a_patch_that_is_never_undone_is_caught(findings, monkeypatch):
    monkeypatch.setattr(torch.nn.functional, "gelu", torch.nn.functional.gelu)  # mends what the method breaks
    found = findings(
        """
        plain = torch.nn.functional.gelu
        torch.nn.functional.gelu = lambda x, *more, **named: plain(x, *more, **named)
        return Reduction.keep(chosen(view, keep), view.tokens.shape[1], position='renumber')
        """
    )
    assert broken(found) == {"the model is as it was afterwards"}
    assert "gelu" in found["the model is as it was afterwards"].found


def test_a_method_that_reads_a_file_is_caught(findings):
    found = findings(
        """
        open(__file__).close()
        return Reduction.keep(chosen(view, keep), view.tokens.shape[1], position='renumber')
        """
    )
    assert broken(found) == {"no traffic with files, environment or global randomness"}


def test_a_method_that_raises_fails_and_the_other_checks_go_on(findings):
    found = findings("raise RuntimeError('no such thing')")
    assert list(found) == list(PROMISES)
    assert broken(found) >= set(PROMISES) - {"inverted scores do worse"}
    assert all("no such thing" in found[p].found for p in broken(found))


def test_only_compressors_are_tried():
    with pytest.raises(UserError, match="jpeg is a tokenizer"):
        truth_test(registry("methods").get("jpeg"), {})


def test_a_method_of_clips_is_tried_on_clips_and_refused_on_pictures():
    dycoke = registry("methods").get("dycoke")
    found = truth_test(dycoke, {}, questions=4)
    assert not broken(found)
    assert "refused: 25%, 10%" in found["budget honoured, by the ledger"].found
    with pytest.raises(UserError, match="synth_vqa shows no clips"):
        truth_test(dycoke, {}, task="synth_vqa")


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    return str(families.save(tmp_path_factory.mktemp("native") / "qwen", "qwen2_5_vl"))


@pytest.mark.parametrize("name", ["divprune", "fastv", "ppe"])
def test_where_every_picture_has_a_count_of_its_own_promises_are_held_to_that(native, name):
    found = truth_test(registry("methods").get(name), {}, native, "synth_vqa", questions=4)
    assert broken(found) <= {"inverted scores do worse"}  # the weights are random
    spent = re.findall(r"(\d+)%: ([\d.]+)/([\d.]+)", found["budget honoured, by the ledger"].found)
    assert len(spent) > 1
    for share, tokens, allowed in spent:  # pictures of 4 x 4 tokens, where the model's nominal one has more
        assert float(allowed) == round(16 * int(share) / 100)
        assert float(tokens) <= float(allowed)


def test_a_method_that_overspends_on_pictures_of_any_size_is_caught(native, findings):
    found = findings("return Reduction.identity(*view.tokens.shape[:2])", 4, native)
    assert "budget honoured, by the ledger" in broken(found)


def test_a_method_that_asks_a_text_encoder_finds_one_beside_our_model():
    assert not broken(truth_test(registry("methods").get("cdpruner"), {}, questions=4))


def test_a_text_encoder_is_asked_for_where_none_is_known_and_used_where_it_is_given(llava_folder, clip_folder):
    cdpruner = registry("methods").get("cdpruner")
    with pytest.raises(UserError, match="cdpruner needs a text encoder: add --text-encoder"):
        truth_test(cdpruner, {}, str(llava_folder))
    given = truth_test(cdpruner, {}, str(llava_folder), text_encoder=str(clip_folder), questions=4)
    assert broken(given) <= {"inverted scores do worse"}  # the weights are random


@pytest.mark.parametrize(("kept", "status", "says"), [
    ([0, 3], "pass", r"divprune\.npz: 1/1$"), ([0, 1], "fail", r"divprune\.npz: 0/1; .* c/out/kept_indices of div"),
])  # fmt: skip
def test_reference_arrays_are_one_of_the_promises(tmp_path, llava_folder, kept, status, says):
    points = np.array([[1, 0], [1, 0.1], [0, 1], [-1, 0]], dtype=np.float32)
    entry = {"method": "divprune", "level": "selection", "tolerance": {"rtol": 1e-4, "atol": 1e-5}, "order_free": []}
    (tmp_path / "INDEX.json").write_text(json.dumps({"divprune": entry}))
    arrays = {"c/in/features": points, "c/in/k": np.int64(2), "c/out/kept_indices": np.array(kept)}
    np.savez(tmp_path / "divprune.npz", **arrays)

    def compared(name):
        options = {"questions": 2, "reference": tmp_path, "dump": tmp_path / "dump"}
        return truth_test(registry("methods").get(name), {}, str(llava_folder), **options)["reference arrays match"]

    assert compared("divprune").status == status
    assert re.search(says, compared("divprune").found)
    assert compared("uniform").status == "open"
    assert (tmp_path / "dump" / "divprune.npz").is_file()


@pytest.mark.skipif(not FOLDER, reason="TOKSWEEP_REFERENCE names no folder of reference arrays")
def test_every_promise_of_divprune_is_kept_within_half_a_minute(here, tmp_path):
    start = time.process_time()
    code, told, _ = here("verify", "divprune", "--reference", str(Path(FOLDER).resolve()), "--json", cwd=tmp_path)
    assert time.process_time() - start < 30
    assert code == 0
    found = {row["promise"]: row for row in json.loads(told)}
    assert list(found) == [*PROMISES, "reference arrays match"]
    assert re.fullmatch(
        r"divprune.npz: (\d+)/\1, wiring_divprune.npz: (\d+)/\2", found["reference arrays match"]["found"]
    )
