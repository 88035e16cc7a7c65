"""The contract on other towers and other LLMs that the same class holds, and from a model's very first call."""

import pytest
import tiny
import torch
import vlm
from toksweep.harness.models import open_model
from toksweep.harness.schedule import untouched


@pytest.fixture(scope="module", params=[("siglip", "qwen2"), ("clip", "mistral")], ids="-".join)
def variant(request, tmp_path_factory):
    tower, llm = request.param
    folder = tiny.save_llava(tmp_path_factory.mktemp(tower) / llm, tower=tower, llm=llm)
    return open_model(str(folder))


def require(variant, name):
    if name not in vlm.able(variant.info):
        pytest.skip(f"{name} reads what this tower has not")


@pytest.mark.parametrize("name", vlm.COMPRESSORS)
def test_a_batch_equals_its_samples_and_counts_are_as_declared(variant, name):
    require(variant, name)
    batch = vlm.batch(variant)
    method, schedule, kind = vlm.cell(variant, name)
    options = {"seed": 0, "max_new_tokens": 3, "budget_kind": kind}
    together = variant.answer(batch, None, method, schedule, **options)
    for row in range(2):
        assert vlm.keeps_its_promise(together[row], schedule, kind)
        one, _ = variant.single(batch, None, row)
        assert variant.answer(one, None, method, schedule, **options) == [together[row]]


@pytest.mark.parametrize("name", vlm.COMPRESSORS)
def test_cached_decoding_equals_recomputation(variant, name):
    require(variant, name)
    batch = vlm.batch(variant)
    method, schedule, kind = vlm.cell(variant, name)
    recorder = vlm.Recorder(method)
    state = variant.prefill(batch, None, recorder, schedule, seed=0, budget_kind=kind)
    token = state.logits.argmax(-1)
    step = variant.decode_step(state, token)
    longer = vlm.longer(batch, token[:, None])
    again = variant.prefill(longer, None, vlm.Repeater(recorder.made), schedule, seed=0, budget_kind=kind)
    assert torch.allclose(step.logits, again.logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", vlm.SELECTORS)
def test_the_full_budget_leaves_the_logits_bit_for_bit(variant, name):
    require(variant, name)
    batch = vlm.batch(variant)
    method, schedule, kind = vlm.cell(variant, name, "100%")
    whole = variant.prefill(batch, None, None, untouched(variant.shape), seed=0)
    state = variant.prefill(batch, None, method, schedule, seed=0, budget_kind=kind)
    assert torch.equal(state.logits, whole.logits)


@pytest.mark.parametrize("name", ["tome", "fastv"])
def test_the_first_call_of_a_model_is_like_every_other(llava_folder, name):
    # transformers registers hooks of its own at the first call that wants hidden states: they must not get in between.
    model = open_model(str(llava_folder))
    batch = vlm.batch(model)
    method, schedule, kind = vlm.cell(model, name)
    first = model.prefill(batch, None, method, schedule, seed=0, budget_kind=kind)
    model.encode(batch)
    again = model.prefill(batch, None, method, schedule, seed=0, budget_kind=kind)
    assert torch.equal(first.logits, again.logits)
