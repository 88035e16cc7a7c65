"""The contract that every family keeps, over every registered compressor."""

import dataclasses

import pytest
import torch
import vlm
from toksweep.harness.contracts import Reduction, Refusal, Stage
from toksweep.harness.models.calls import BrokenPromiseError
from toksweep.harness.registry import registry
from toksweep.harness.schedule import lay_out, untouched

ALL = ["none", *vlm.COMPRESSORS]


def each(names):
    """Every method under SDPA; under eager attention those that act inside the LLM, and one for each other place."""
    others = {"none", "downsample", "tome", "divprune"}
    inside = {"decoder", "attention"}
    eager = [n for n in names if n in others or inside & {*registry("methods").get(n).meta.get("places", ())}]
    both = [("sdpa", n) for n in names] + [("eager", n) for n in eager]
    return pytest.mark.parametrize(("llava", "name"), both, indirect=["llava"])


def run(model, batch, name, budget=9, **options):
    method, schedule, kind = vlm.cell(model, name, budget)
    state = model.prefill(batch, None, method, schedule, seed=0, budget_kind=kind, **options)
    return state, schedule


@each(vlm.SELECTORS)
def test_a_selector_at_the_full_budget_is_called_and_leaves_the_logits_bit_for_bit(llava, name):
    batch = vlm.batch(llava)
    method, schedule, kind = vlm.cell(llava, name, "100%")
    recorder = vlm.Recorder(method)
    whole, _ = run(llava, batch, "none")
    state = llava.prefill(batch, None, recorder, schedule, seed=0, budget_kind=kind)
    assert recorder.made
    assert all(r.is_selection and r.counts.remainder(16).eq(0).all() for r in recorder.made)
    assert torch.equal(state.logits, whole.logits)
    for _ in range(3):
        state, whole = llava.decode_step(state), llava.decode_step(whole)
        assert torch.equal(state.logits, whole.logits)


@each(vlm.MERGERS)
def test_a_merging_method_is_bypassed_at_the_full_budget(llava, name):
    assert vlm.cell(llava, name, 16)[1] == untouched(llava.shape)


@pytest.mark.parametrize("budget", [5, 9, 14])
@each(ALL)
def test_tokens_at_every_layer_and_in_the_cache_are_as_declared(llava, name, budget):
    batch = vlm.batch(llava)
    try:
        method, schedule, kind = vlm.cell(llava, name, budget)
    except Refusal as reason:
        pytest.skip(str(reason))
    answers = llava.answer(batch, None, method, schedule, seed=0, max_new_tokens=2, budget_kind=kind)
    for answer, images in zip(answers, (1, 2), strict=True):
        assert vlm.keeps_its_promise(answer, images, schedule, kind)
        assert answer.kv_tokens == answer.visual_tokens
        assert answer.tokens_full == images * 16
        assert schedule.mean <= (16 if name == "none" else budget)


@each(ALL)
def test_a_batch_equals_its_samples_one_by_one(llava, name):
    batch = vlm.batch(llava)
    method, schedule, kind = vlm.cell(llava, name)
    options = {"seed": 0, "budget_kind": kind}
    encoded = llava.encode(batch, vlm.reads(schedule))
    together = llava.answer(batch, encoded, method, schedule, max_new_tokens=4, **options)
    logits = llava.prefill(batch, encoded, method, schedule, **options).logits
    for row in range(2):
        one, shared = llava.single(batch, encoded, row)
        assert llava.answer(one, shared, method, schedule, max_new_tokens=4, **options) == [together[row]]
        alone = llava.prefill(one, None, method, schedule, **options).logits
        assert torch.allclose(alone[0], logits[row], rtol=0, atol=1e-5)


@each(ALL)
def test_the_order_of_samples_changes_nothing(llava, name):
    method, schedule, kind = vlm.cell(llava, name)
    options = {"seed": 3, "max_new_tokens": 3, "budget_kind": kind}
    forward = llava.answer(vlm.batch(llava), None, method, schedule, **options)
    backward = llava.answer(vlm.batch(llava, order=(1, 0)), None, method, schedule, **options)
    assert forward == backward[::-1]


@each(ALL)
def test_cached_decoding_equals_recomputation_with_the_selection_held(llava, name):
    batch = vlm.batch(llava)
    method, schedule, kind = vlm.cell(llava, name)
    recorder = vlm.Recorder(method) if method else None
    state = llava.prefill(batch, None, recorder, schedule, seed=0, budget_kind=kind)
    written = torch.zeros(2, 0, dtype=torch.long)
    for _ in range(4):
        token = state.logits.argmax(-1)
        written = torch.cat([written, token[:, None]], 1)
        state = llava.decode_step(state, token)
        repeater = vlm.Repeater(recorder.made) if recorder else None
        again = llava.prefill(vlm.longer(batch, written), None, repeater, schedule, seed=0, budget_kind=kind)
        assert torch.allclose(state.logits, again.logits, rtol=0, atol=1e-5)


@each(ALL)
def test_a_shared_encoding_gives_the_same_answers(llava, name):
    batch = vlm.batch(llava)
    method, schedule, kind = vlm.cell(llava, name)
    encoded = llava.encode(batch, vlm.reads(schedule))
    options = {"seed": 0, "max_new_tokens": 3, "budget_kind": kind}
    assert llava.answer(batch, encoded, method, schedule, **options) == llava.answer(
        batch, None, method, schedule, **options
    )


def attributes(model):
    """What a wrapping could leave behind on any module."""
    hooks = ("_forward_pre_hooks", "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
    return [
        (name, id(getattr(m, "config", None)), sorted(m.__dict__), [len(getattr(m, h)) for h in hooks])
        for name, m in model.model.named_modules()
    ]


@each(vlm.COMPRESSORS)
def test_leaving_gives_back_bit_identical_outputs_and_nothing_remains(llava, name):
    batch = vlm.batch(llava)
    before, _ = run(llava, batch, "none")
    found = attributes(llava)
    state, _ = run(llava, batch, name)
    llava.decode_step(state)
    assert attributes(llava) == found
    assert torch.equal(run(llava, batch, "none")[0].logits, before.logits)


class Failing:
    """Raises in the middle of a forward pass."""

    def __init__(self, method):
        self.stages = method.stages

    def reduce(self, view, keep):
        raise RuntimeError("a bug in a method")


@each(vlm.COMPRESSORS)
def test_nothing_remains_after_a_method_that_raises(llava, name):
    if name == "downsample":
        pytest.skip("a pixel stage calls no code of the method while the model runs")
    batch = vlm.batch(llava)
    before, _ = run(llava, batch, "none")
    found = attributes(llava)
    method, schedule, kind = vlm.cell(llava, name)
    with pytest.raises(RuntimeError, match="a bug in a method"):
        llava.prefill(batch, None, Failing(method), schedule, seed=0, budget_kind=kind)
    assert attributes(llava) == found
    assert torch.equal(run(llava, batch, "none")[0].logits, before.logits)


def test_untouched_answers_equal_those_of_generate(llava):
    batch = vlm.batch(llava)
    ours = llava.answer(batch, None, None, untouched(llava.shape), seed=0, max_new_tokens=6)
    theirs = llava.model.generate(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, pixel_values=batch.pixels,
        max_new_tokens=6, do_sample=False,
    )  # fmt: skip
    for row, answer in enumerate(ours):
        assert theirs[row, batch.input_ids.shape[1] :].tolist() == list(answer.token_ids)


def test_an_answer_ends_before_its_end_token(llava, monkeypatch):
    batch = vlm.batch(llava)
    whole = llava.answer(batch, None, None, untouched(llava.shape), seed=0, max_new_tokens=6)
    end = next(t for t in whole[0].token_ids[1:] if t != whole[0].token_ids[0])
    monkeypatch.setattr(llava.model.generation_config, "eos_token_id", [end])
    short = llava.answer(batch, None, None, untouched(llava.shape), seed=0, max_new_tokens=6)
    for before, after in zip(whole, short, strict=True):
        cut = before.token_ids.index(end) if end in before.token_ids else 6
        assert after.token_ids == before.token_ids[:cut]


@each(vlm.COMPRESSORS)
def test_only_seeds_of_stochastic_methods_change_anything(llava, name):
    batch = vlm.batch(llava)
    method, schedule, kind = vlm.cell(llava, name)
    kept = [
        llava.answer(batch, None, method, schedule, seed=s, max_new_tokens=1, budget_kind=kind)[1].kept_indices
        for s in (0, 0, 1)
    ]
    assert kept[0] == kept[1]
    assert (kept[0] != kept[2]) == registry("methods").get(name).meta["stochastic"]


def test_two_pictures_of_one_sample_draw_differently(llava):
    method, schedule, _ = vlm.cell(llava, "random", 8)
    (kept,) = llava.answer(vlm.batch(llava), None, method, schedule, seed=0, max_new_tokens=1)[1].kept_indices
    first, second = [i for i in kept if i < 16], [i - 16 for i in kept if i >= 16]
    assert len(first) == len(second) == 8
    assert first != second


@dataclasses.dataclass
class Wrong:
    """Returns another number of tokens than it was asked for."""

    returns: int
    place: str = "projector"

    def reduce(self, view, keep):
        n = view.tokens.shape[1]
        return Reduction.keep(torch.arange(self.returns).expand(len(view.tokens), -1), n)


@pytest.mark.parametrize(("kind", "returns", "fine"), [
    ("exact", 7, False), ("exact", 9, False), ("exact", 8, True), ("at_most", 7, True), ("at_most", 9, False),
    ("adaptive", 9, True),
])  # fmt: skip
def test_a_broken_promise_names_method_picture_asked_and_got(llava, kind, returns, fine):
    batch = vlm.batch(llava)
    schedule = lay_out((Stage("projector", 8),), llava.shape)
    if fine:
        answer = llava.answer(batch, None, Wrong(returns), schedule, seed=0, max_new_tokens=1, budget_kind=kind)[0]
        assert answer.visual_tokens == (returns,) * 6
        return
    with pytest.raises(BrokenPromiseError, match=rf"Wrong.*8 tokens of picture 0 of sample short.*returned {returns}"):
        llava.prefill(batch, None, Wrong(returns), schedule, seed=0, budget_kind=kind)


def test_a_method_that_returns_something_else_is_an_error(llava):
    class Indices:
        def reduce(self, view, keep):
            return torch.arange(keep).expand(len(view.tokens), -1)

    schedule = lay_out((Stage("projector", 8),), llava.shape)
    with pytest.raises(BrokenPromiseError, match="Indices at projector returned a Tensor, not a Reduction"):
        llava.prefill(vlm.batch(llava), None, Indices(), schedule, seed=0)


def test_a_method_that_names_a_token_that_is_not_there_is_an_error(llava):
    class Beyond:
        def reduce(self, view, keep):
            return Reduction.keep(torch.full((len(view.tokens), keep), 99), view.tokens.shape[1])

    schedule = lay_out((Stage("projector", 8),), llava.shape)
    with pytest.raises(BrokenPromiseError, match="does not exist"):
        llava.prefill(vlm.batch(llava), None, Beyond(), schedule, seed=0)
