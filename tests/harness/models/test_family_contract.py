"""The contract that every family keeps, over every registered compressor."""

import dataclasses

import families
import pytest
import torch
import vlm
from toksweep.harness.contracts import Budget, Reduction, Refusal, Stage, View
from toksweep.harness.models.calls import BrokenPromiseError
from toksweep.harness.registry import registry
from toksweep.harness.schedule import lay_out, untouched

SELECTORS, COMPRESSORS = [*vlm.SELECTORS, *vlm.CLIP_SELECTORS], [*vlm.COMPRESSORS, *vlm.CLIP_SELECTORS]
ALL = ["none", *COMPRESSORS]


CLIPS = [f"{family}-clip" for family in families.CLIPS]
ALIKE = ("llava_next_video", "video_llava")
"""Families whose pictures go the way of another's: `llava_next` and `llava`."""


def each(names, *, core=True, budgets=None):
    """Every method that a family serves, under SDPA; under eager attention those that act inside the LLM and one for
    each other place, in families beside LLaVA one.

    Clips, and pictures of families like another, run under SDPA, at one budget; tests that are not `core` they run with
    one method for each place.
    """
    found = []
    for family in ("llava", *families.FAMILIES, *CLIPS):
        less = family in CLIPS or family in ALIKE
        served = ["none", *_able(family)]
        here = [name for name in names if name in served and (core or not less or _one_of_a_kind(name))]
        asked = ("56%",) if less and budgets else budgets or ("",)
        kinds = [("sdpa", name) for name in here]
        kinds += [] if less else [("eager", name) for name in here if _under_eager(family, name)]
        found += [((family, kernel), name, budget) for kernel, name in kinds for budget in asked]
    ids = ["-".join((*kind, name, budget)).rstrip("-") for kind, name, budget in found]
    if budgets:
        return pytest.mark.parametrize(("model", "name", "budget"), found, indirect=["model"], ids=ids)
    return pytest.mark.parametrize(("model", "name"), [case[:2] for case in found], indirect=["model"], ids=ids)


def _able(family):
    return vlm.able(families.info(family)[1], clip=family in families.WITH_ENCODER, clips=family in CLIPS)


def _one_of_a_kind(name):
    return name in ("none", "downsample", "tome", "random", "divprune", "holitom", "fastv")


def _under_eager(family, name):
    if family != "llava":
        return name == "fastv"
    inside = {"decoder", "attention"} & {*registry("methods").get(name).meta.get("places", ())}
    return bool(inside) or name in ("none", "downsample", "tome", "divprune")


every_family = pytest.mark.parametrize(
    "model",
    [(family, kernel) for family in ("llava", *families.FAMILIES) for kernel in ("sdpa", "eager")]
    + [(family, "sdpa") for family in CLIPS],
    indirect=True, ids="-".join,
)  # fmt: skip


def run(model, batch, name, budget="56%", **options):
    method, schedule, kind = vlm.cell(model, name, budget)
    state = model.prefill(batch, None, method, schedule, seed=0, budget_kind=kind, **options)
    return state, schedule


@each(SELECTORS)
def test_a_selector_at_the_full_budget_is_called_and_leaves_the_logits_bit_for_bit(model, name):
    batch = vlm.batch(model)
    method, schedule, kind = vlm.cell(model, name, "100%")
    recorder = vlm.Recorder(method)
    whole, _ = run(model, batch, "none")
    state = model.prefill(batch, None, recorder, schedule, seed=0, budget_kind=kind)
    assert recorder.made
    assert all(r.is_selection and r.counts.eq(r.sources).all() for r in recorder.made)
    assert torch.equal(state.logits, whole.logits)
    for _ in range(3):
        state, whole = model.decode_step(state), model.decode_step(whole)
        assert torch.equal(state.logits, whole.logits)


@each(vlm.MERGERS)
def test_a_merging_method_is_bypassed_at_the_full_budget(model, name):
    assert vlm.cell(model, name, "100%")[1] == untouched(vlm.shape(model))


@each(ALL, budgets=("31%", "56%", "88%"))
def test_tokens_at_every_layer_and_in_the_cache_are_as_declared(model, name, budget):
    batch = vlm.batch(model)
    try:
        method, schedule, kind = vlm.cell(model, name, budget)
        answers = model.answer(batch, None, method, schedule, seed=0, max_new_tokens=2, budget_kind=kind)
    except Refusal as reason:  # of the model, or of one of its smaller images
        pytest.skip(str(reason))
    for row, answer in enumerate(answers):
        grids = [batch.crops[image].grid for image in batch.images_of(row)]
        assert list(answer.grids) == grids
        assert vlm.keeps_its_promise(answer, schedule, kind)
        assert answer.kv_tokens == answer.visual_tokens
        separators = sum(batch.crops[image].separators for image in batch.images_of(row))
        assert answer.tokens_full == separators + sum(rows * columns for rows, columns in grids)
        for grid in grids if name != "none" else ():
            assert schedule.over([grid])[0].mean <= Budget.parse(budget).tokens(grid[0] * grid[1])


@each(ALL)
def test_a_batch_equals_its_samples_one_by_one(model, name):
    batch = vlm.batch(model)
    method, schedule, kind = vlm.cell(model, name)
    options = {"seed": 0, "budget_kind": kind}
    encoded = model.encode(batch, vlm.reads(schedule))
    together = model.answer(batch, encoded, method, schedule, max_new_tokens=4, **options)
    logits = model.prefill(batch, encoded, method, schedule, **options).logits
    for row in range(2):
        one, shared = model.single(batch, encoded, row)
        assert model.answer(one, shared, method, schedule, max_new_tokens=4, **options) == [together[row]]
        alone = model.prefill(one, None, method, schedule, **options).logits
        assert torch.allclose(alone[0], logits[row], rtol=0, atol=1e-5)


@each(ALL, core=False)
def test_the_order_of_samples_changes_nothing(model, name):
    method, schedule, kind = vlm.cell(model, name)
    options = {"seed": 3, "max_new_tokens": 3, "budget_kind": kind}
    forward = model.answer(vlm.batch(model), None, method, schedule, **options)
    backward = model.answer(vlm.batch(model, order=(1, 0)), None, method, schedule, **options)
    assert forward == backward[::-1]


@each(ALL)
def test_cached_decoding_equals_recomputation_with_the_selection_held(model, name):
    batch = vlm.batch(model)
    method, schedule, kind = vlm.cell(model, name)
    recorder = vlm.Recorder(method) if method else None
    state = model.prefill(batch, None, recorder, schedule, seed=0, budget_kind=kind)
    written = torch.zeros(2, 0, dtype=torch.long)
    for _ in range(2 if batch.clip else 4):
        token = state.logits.argmax(-1)
        written = torch.cat([written, token[:, None]], 1)
        state = model.decode_step(state, token)
        repeater = vlm.Repeater(recorder.made) if recorder else None
        again = model.prefill(vlm.longer(batch, written), None, repeater, schedule, seed=0, budget_kind=kind)
        assert torch.allclose(state.logits, again.logits, rtol=0, atol=1e-5)


@each(ALL, core=False)
def test_a_shared_encoding_gives_the_same_answers(model, name):
    batch = vlm.batch(model)
    method, schedule, kind = vlm.cell(model, name)
    encoded = model.encode(batch, vlm.reads(schedule))
    options = {"seed": 0, "max_new_tokens": 3, "budget_kind": kind}
    assert model.answer(batch, encoded, method, schedule, **options) == model.answer(
        batch, None, method, schedule, **options
    )


def attributes(model):
    """What a wrapping could leave behind on any module."""
    hooks = ("_forward_pre_hooks", "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
    return [
        (name, id(getattr(m, "config", None)), sorted(m.__dict__), [len(getattr(m, h)) for h in hooks])
        for name, m in model.model.named_modules()
    ]


@each(COMPRESSORS, core=False)
def test_leaving_gives_back_bit_identical_outputs_and_nothing_remains(model, name):
    batch = vlm.batch(model)
    before, _ = run(model, batch, "none")
    found = attributes(model)
    state, _ = run(model, batch, name)
    model.decode_step(state)
    assert attributes(model) == found
    assert torch.equal(run(model, batch, "none")[0].logits, before.logits)


class Failing:
    """Raises in the middle of a forward pass."""

    def __init__(self, method):
        self.stages = method.stages

    def reduce(self, view, keep):
        raise RuntimeError("a bug in a method")


@each(COMPRESSORS, core=False)
def test_nothing_remains_after_a_method_that_raises(model, name):
    if name == "downsample":
        pytest.skip("a pixel stage calls no code of the method while the model runs")
    batch = vlm.batch(model)
    before, _ = run(model, batch, "none")
    found = attributes(model)
    method, schedule, kind = vlm.cell(model, name)
    with pytest.raises(RuntimeError, match="a bug in a method"):
        model.prefill(batch, None, Failing(method), schedule, seed=0, budget_kind=kind)
    assert attributes(model) == found
    assert torch.equal(run(model, batch, "none")[0].logits, before.logits)


@every_family
def test_untouched_answers_equal_those_of_generate(model):
    whole = vlm.batch(model)
    for batch in (whole.of(0), whole.of(1)) if whole.clip else (whole,):  # classes take clips of one length
        ours = model.answer(batch, None, None, untouched(model.shape), seed=0, max_new_tokens=6)
        given = vlm.native(model, batch)
        theirs = model.model.generate(
            **{"input_ids": batch.input_ids, **given}, attention_mask=batch.attention_mask, max_new_tokens=6,
            do_sample=False,
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


BREAKS_TIES = {"ppe", "prunevid", "sparsevlm"}
"""Methods that draw noise against equal densities, which two tokens have that are each other's only neighbour: but for
it, which is taken from them, seeds change nothing."""


@each(COMPRESSORS, core=False)
def test_only_seeds_of_stochastic_methods_change_anything(model, name, monkeypatch):
    if name in BREAKS_TIES:
        monkeypatch.setattr(View, "noise", lambda view, *shape: torch.zeros(len(view.tokens), *shape))
    batch = vlm.batch(model)
    method, schedule, kind = vlm.cell(model, name)
    kept = [
        model.answer(batch, None, method, schedule, seed=s, max_new_tokens=1, budget_kind=kind)[1].kept_indices
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
