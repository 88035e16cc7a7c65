"""Bugs that released code has had, each planted in a method and caught by the truth test."""

from __future__ import annotations

import textwrap

import pytest
import torch
from toksweep.harness.contracts import UserError
from toksweep.harness.models.embedded import embedded
from toksweep.harness.registry import registry
from toksweep.harness.truth import truth_test

HEAD = """
import torch
from toksweep.harness.contracts import Reduction
from toksweep.harness.registry import compressor

def chosen(view, keep):
    scores = view["class_attention@-2"].mean(1)
    return scores.topk(keep).indices.sort().values
"""

HONEST = """
@compressor("{name}", places=("projector",), needs=("class_attention@-2",))
def method(view, keep):
    {body}
"""


@pytest.fixture
def findings(tmp_path, monkeypatch):
    """What the truth test says of a method of that body, by promise."""
    # a file's methods stay registered for good; these must not
    known = dict(registry("methods")._entries)
    numbers = iter(range(99))

    def find(body: str, questions: int = 8) -> dict[str, object]:
        name = f"planted{next(numbers)}"
        path = tmp_path / f"{name}.py"
        path.write_text(
            HEAD + HONEST.format(name=name, body=textwrap.indent(textwrap.dedent(body).strip(), "    ").strip())
        )
        found = truth_test(registry("methods").get(str(path)), {}, None, "synth_vqa", questions=questions)
        return {f.promise: f for f in found}

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
    assert found["inverted scores do worse"].status == ("pass" if embedded() else "open")
    assert len(found) == 8


@pytest.mark.skipif(not embedded(), reason="needs trained weights, and none come with this version")
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
    assert broken(found)
    assert all("no such thing" in found[p].found for p in broken(found))


def test_only_compressors_are_tried():
    with pytest.raises(UserError, match="jpeg is a tokenizer"):
        truth_test(registry("methods").get("jpeg"), {}, None, "synth_vqa")
