"""Cuts inside the LLM that mask tokens instead of removing them: nothing is saved, and nothing else differs."""

from dataclasses import replace

import pytest
import torch
import vlm
from toksweep.harness.contracts import Reduction, Refusal, Stage, UserError
from toksweep.harness.models.calls import BrokenPromiseError
from toksweep.harness.models.cutter import Cutter
from toksweep.harness.schedule import cuts, lay_out, untouched

CUTS = (Stage("decoder", 9, layer=2), Stage("decoder", 4, layer=3, reads=("last_attention",)), Stage("decoder", 0, 5))
MASKING = tuple(replace(cut, masks=True) for cut in CUTS)


class Loudest:
    """Keeps the tokens of the largest first channel, or of the last prompt token's attention."""

    def reduce(self, view, keep):
        scores = view["last_attention"].mean(1) if "last_attention" in view.signals else view.tokens[..., 0]
        kept = scores.argsort(dim=-1, descending=True, stable=True)[:, :keep].sort(-1).values
        return Reduction.keep(kept, view.tokens.shape[1], position="keep")


def test_masking_gives_the_logits_of_removal_and_saves_no_token(llava):
    batch = vlm.batch(llava)
    removed, masked = lay_out(CUTS, llava.shape), lay_out(MASKING, llava.shape)
    assert removed.layers == (16, 16, 9, 4, 4, 0)
    assert masked.layers == (16,) * 6
    states = [llava.prefill(batch, None, Loudest(), schedule, seed=0) for schedule in (removed, masked)]
    assert states[0].calls.kept([1, 2]) == states[1].calls.kept([1, 2])
    assert [span.counts().tolist() for span in states[1].cutter.spans] == [[16, 32]] * 6
    assert states[1].cutter.spans[3].visible.sum() < states[1].cutter.spans[2].visible.sum()
    for _ in range(4):
        assert torch.allclose(states[0].logits, states[1].logits, rtol=0, atol=1e-5)
        token = states[0].logits.argmax(-1)
        states = [llava.decode_step(state, token) for state in states]


def test_a_masked_cell_costs_what_its_tokens_do_and_a_batch_equals_its_samples(llava):
    batch = vlm.batch(llava)
    schedule = lay_out(MASKING, llava.shape)
    answers = llava.answer(batch, None, Loudest(), schedule, seed=0, max_new_tokens=3)
    assert [a.visual_tokens for a in answers] == [(16,) * 6, (32,) * 6] == [a.kv_tokens for a in answers]
    assert [len(kept) for kept in answers[1].kept_indices] == [18, 8, 0]
    for row in range(2):
        one, _ = llava.single(batch, None, row)
        assert llava.answer(one, None, Loudest(), schedule, seed=0, max_new_tokens=3) == [answers[row]]


def test_aim_masks_as_its_authors_do_when_told_to(llava):
    batch = vlm.batch(llava)
    method, schedule, kind = vlm.cell(llava, "aim", 8, "entering", mask=True)
    assert schedule.layers == (8,) * 6
    state = llava.prefill(batch, None, method, schedule, seed=0, budget_kind=kind)
    left = [int((span.visible & (span.visual >= 0)).sum()) for span in state.cutter.spans]
    assert left == sorted(left, reverse=True)
    assert left[0] == 24 > left[-1]


class Joining:
    def reduce(self, view, keep):
        return Reduction.merge((torch.arange(view.tokens.shape[1]) % keep).expand(len(view.tokens), -1))


def test_what_cannot_be_masked_is_refused(llava, monkeypatch):
    batch, schedule = vlm.batch(llava), lay_out(MASKING[:1], llava.shape)
    with pytest.raises(BrokenPromiseError, match="Joining at decoder layer 2 masks tokens, and merged"):
        llava.prefill(batch, None, Joining(), schedule, seed=0)
    with pytest.raises(Refusal, match="masks tokens at projector"):
        lay_out((Stage("projector", 4, masks=True),), llava.shape)
    span = llava.prefill(batch, None, None, untouched(llava.shape), seed=0).cutter.spans[0]
    monkeypatch.setattr(llava.text_model.config, "_attn_implementation_internal", "flash_attention_2")
    with pytest.raises(UserError, match="--attn sdpa"):
        Cutter(llava.text_model, cuts([lay_out(MASKING, llava.shape)]), None, span)
