"""Greedy decoding with a checkpoint's repetition penalty, or the tokenizer's end token alone, as in `generate`."""

import families
import pytest
import tiny
import torch
from toksweep.harness.contracts import Sample
from toksweep.harness.models import open_model
from toksweep.harness.schedule import untouched

QUESTION = "what colour is the ball on the left of a red ball?"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return open_model(str(families.save(tmp_path_factory.mktemp("qwen"), "qwen2_5_vl")))


def written(model, picture, *, tokenizer_end=False):
    """Ours, and transformers' own, of one picture."""
    sample = Sample("s", "s", (), "s", question=QUESTION)
    batch = model.prepare([sample], [[picture]])
    ours = model.answer(
        batch, None, None, untouched(model.shape), seed=0, max_new_tokens=12, tokenizer_end=tokenizer_end
    )[0].token_ids
    inputs = model.processor(text=[model.prompt(sample, 1)], images=[picture], return_tensors="pt")
    ends = {"eos_token_id": model.tokenizer.eos_token_id} if tokenizer_end else {}
    theirs = model.model.generate(**inputs, do_sample=False, max_new_tokens=12, **ends)
    return list(ours), theirs[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("factor", [1.0, 1.3, 4.0])
def test_the_penalty_is_that_of_generate(model, monkeypatch, factor):
    monkeypatch.setattr(model.model.generation_config, "repetition_penalty", factor)
    for seed in range(3):
        ours, theirs = written(model, tiny.picture(seed))
        assert ours == theirs
    if factor == 4.0:
        monkeypatch.setattr(model.model.generation_config, "repetition_penalty", 1.0)
        assert written(model, tiny.picture(2))[0] != ours


def test_a_task_may_let_only_the_tokenizers_end_token_end_an_answer(model, monkeypatch):
    free, _ = written(model, tiny.picture(0))
    monkeypatch.setattr(model.model.generation_config, "eos_token_id", [2, free[3]])
    ours, theirs = written(model, tiny.picture(0), tokenizer_end=True)
    assert ours == theirs == free
    stopped, _ = written(model, tiny.picture(0))
    assert stopped == free[: free.index(free[3])]


def test_padding_is_not_what_the_prompt_holds():
    from toksweep.harness.models.penalty import RepetitionPenalty

    penalty = RepetitionPenalty(2.0, torch.tensor([[0, 3], [1, 3]]), torch.tensor([[0, 1], [1, 1]]))
    logits = torch.tensor([[1.0, 1.0, -1.0, -1.0]] * 2)
    assert penalty(logits).tolist() == [[1.0, 1.0, -1.0, -2.0], [1.0, 0.5, -1.0, -2.0]]
    penalty.saw(torch.tensor([0, 2]))
    assert penalty(logits).tolist() == [[0.5, 1.0, -1.0, -2.0], [1.0, 0.5, -2.0, -2.0]]
