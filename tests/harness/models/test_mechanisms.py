"""Taps, cutter and merger against computations that were written out another way."""

import dataclasses
from contextlib import ExitStack
from itertools import pairwise

import pytest
import tiny
import torch
import vlm
from toksweep.harness.contracts import Reduction, Stage, UserError
from toksweep.harness.models.taps import tap
from toksweep.harness.schedule import lay_out, untouched
from toksweep.methods.pairs import pair_alike

PLAIN = torch.no_grad()


def close(a, b, atol=1e-5):
    assert torch.allclose(a, b, rtol=0, atol=atol), float((a - b).abs().max())


@pytest.fixture(scope="module")
def eager(llava_folder):
    """The same weights under eager attention, whose weights transformers itself returns."""
    from toksweep.harness.models import open_model

    return open_model(str(llava_folder), attention="eager")


# ------------------------------------------------------------------------------------------------------- attention rows


@PLAIN
def test_tapped_rows_of_the_llm_equal_the_attentions_of_eager(llava, eager):
    batch = vlm.batch(llava)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "pixel_values": vlm.pixels(batch)}
    seen = []
    with tap(llava.text_model.layers[2].self_attn, seen.append):
        llava.model(**inputs)
    want = eager.model(**inputs, output_attentions=True).attentions[2]
    length = batch.input_ids.shape[1]
    close(seen[0].rows([-1, length - 3]), want[:, :, [length - 1, length - 3]], 2e-6)


@PLAIN
def test_class_attention_is_that_of_the_layer_named(llava, eager):
    batch = vlm.batch(llava)
    found = llava.encode(batch, frozenset({"class_attention@-2", "class_attention@0"}))
    maps = eager.model.model.vision_tower(vlm.pixels(batch), output_attentions=True).attentions
    for name, want in (("class_attention@-2", maps[-2]), ("class_attention@0", maps[0])):
        close(torch.stack(found.signals[name]), want[:, :, 0, 1:], 2e-6)


@PLAIN
def test_listening_changes_no_output_and_taps_nest(llava):
    batch = vlm.batch(llava)
    plain = llava.encode(batch)
    attention = llava.blocks(())[1].attention
    config, seen = attention.config, []
    with tap(attention, seen.append), tap(attention, seen.append):
        tapped = llava.encode(batch)
    assert len(seen) == 2
    assert attention.config is config
    assert all(torch.equal(a, b) for a, b in zip(plain.features, tapped.features, strict=True))


@PLAIN
def test_the_class_token_is_projected_beside_the_patches(llava):
    batch = vlm.batch(llava)
    found = llava.encode(batch)
    hidden = llava.model.model.vision_tower(vlm.pixels(batch), output_hidden_states=True).hidden_states[-2]
    assert torch.equal(torch.stack(found.features), hidden[:, 1:])
    close(torch.stack(found.class_tokens), llava.model.model.multi_modal_projector(hidden[:, :1]), 5e-6)
    close(torch.stack(found.tokens), llava.model.model.multi_modal_projector(hidden[:, 1:]), 5e-6)


# ------------------------------------------------------------------------------------------------------------ projector


def prompt(llava, batch, row, features):
    """Input embeddings of one sample with `features` in the place of its visual tokens."""
    ids = batch.input_ids[row][batch.attention_mask[row].bool()]
    on = (ids == llava.placeholder).nonzero()[:, 0]
    words = llava.model.get_input_embeddings()(ids)
    return torch.cat([words[: on[0]], features, words[on[-1] + 1 :]])[None]


@PLAIN
@pytest.mark.parametrize("name", ["random", "uniform", "divprune", "avgpool"])
def test_a_cut_at_the_projector_is_an_ordinary_shorter_prompt(llava, name):
    batch = vlm.batch(llava)
    encoded = llava.encode(batch)
    method, schedule, kind = vlm.cell(llava, name)
    recorder = vlm.Recorder(method)
    state = llava.prefill(batch, encoded, recorder, schedule, seed=0, budget_kind=kind)
    (made,) = recorder.made
    kept = [made.dense()[i] @ encoded.tokens[i] for i in range(3)]
    for row, features in ((0, kept[0]), (1, torch.cat(kept[1:]))):
        out = llava.text_model(inputs_embeds=prompt(llava, batch, row, features))
        close(state.logits[row], llava.model.lm_head(out.last_hidden_state[0, -1]))


class Every:
    """Keeps every second token under a position rule of choice."""

    def __init__(self, position):
        self.position = position

    def reduce(self, view, keep):
        size, n, _ = view.tokens.shape
        picks = torch.arange(0, n, n // keep)[:keep].expand(size, keep)
        rule = torch.arange(100, 100 + keep).expand(size, keep) if self.position == "explicit" else self.position
        return Reduction.keep(picks, n, position=rule)


@PLAIN
@pytest.mark.parametrize("stage", [Stage("projector", 8), Stage("decoder", 8, layer=2)])
@pytest.mark.parametrize("position", ["keep", "renumber", "explicit"])
def test_positions_follow_the_rule_of_the_method(llava, position, stage):
    batch = vlm.batch(llava)
    one, _ = llava.single(batch, None, 0)  # two words, 16 visual tokens, then text
    length = one.input_ids.shape[1]
    state = llava.prefill(one, None, Every(position), lay_out((stage,), llava.shape), seed=0)
    first = int((one.input_ids[0] == llava.placeholder).nonzero()[0])
    visual = {"keep": range(first, first + 16, 2), "renumber": range(first, first + 8), "explicit": range(100, 108)}
    after = range(first + 8, length - 8) if position == "renumber" else range(first + 16, length)
    got = state.cutter.spans[-1].position[0].tolist()
    assert got == [*range(first), *visual[position], *after]


@PLAIN
@pytest.mark.parametrize("position", ["keep", "renumber", "explicit"])
@pytest.mark.parametrize("place", ["projector", "decoder"])
def test_every_position_rule_decodes_as_a_recomputation_would(llava, place, position):
    batch = vlm.batch(llava)
    stage = Stage("projector", 8) if place == "projector" else Stage("decoder", 8, layer=2)
    schedule = lay_out((stage,), llava.shape)
    state = llava.prefill(batch, None, Every(position), schedule, seed=0)
    token = state.logits.argmax(-1)
    step = llava.decode_step(state, token)
    again = llava.prefill(vlm.longer(batch, token[:, None]), None, Every(position), schedule, seed=0)
    close(step.logits, again.logits)


class Classy:
    """Keeps the class token in front of the first patches."""

    def reduce(self, view, keep):
        size, n, _ = view.tokens.shape
        assert view.class_index == n - 1
        assert view.origin[:, -1].eq(-1).all()
        return Reduction.keep(torch.tensor([n - 1, *range(keep - 1)]).expand(size, keep), n, position="renumber")


@PLAIN
def test_a_method_may_keep_the_class_token_at_the_projector(llava):
    batch = vlm.batch(llava)
    schedule = lay_out((Stage("projector", 4, reads=("class_token",)),), llava.shape)
    answer = llava.answer(batch, None, Classy(), schedule, seed=0, max_new_tokens=1)[1]
    assert answer.visual_tokens == (8,) * 6
    assert answer.kept_indices == ([-1, 0, 1, 2, -1, 16, 17, 18],)
    found = llava.encode(batch)
    kept = torch.cat([found.class_tokens[0], found.tokens[0][:3]])
    out = llava.text_model(inputs_embeds=prompt(llava, batch, 0, kept)).last_hidden_state
    close(llava.prefill(batch, None, Classy(), schedule, seed=0).logits[0], llava.model.lm_head(out[0, -1]))


@dataclasses.dataclass
class Uneven:
    """Keeps another number of tokens of every picture."""

    position: str = "keep"

    def reduce(self, view, keep):
        n = view.tokens.shape[1]
        counts = view.tokens[:, 0].argmax(-1) % (n - 1) + 1
        return Reduction.keep([torch.arange(int(c)) for c in counts], n, position=self.position)


@pytest.mark.parametrize("position", ["keep", "renumber"])
@pytest.mark.parametrize("stage", [Stage("projector", 8), Stage("decoder", 8, layer=2)])
def test_pictures_may_keep_different_numbers_of_tokens(llava, stage, position):
    batch = vlm.batch(llava)
    schedule = lay_out((stage, Stage("decoder", 3, layer=4)), llava.shape)
    options = {"seed": 0, "max_new_tokens": 3, "budget_kind": "adaptive"}
    answers = llava.answer(batch, None, Uneven(position), schedule, **options)
    assert len({a.visual_tokens[3] for a in answers}) == 2
    for row, answer in enumerate(answers):
        assert answer.visual_tokens[3] == len(answer.kept_indices[0])
        assert answer.visual_tokens[5] == len(answer.kept_indices[1])
        one, _ = llava.single(batch, None, row)
        assert llava.answer(one, None, Uneven(position), schedule, **options) == [answer]


# -------------------------------------------------------------------------------------------------------------- decoder


def masked_only(llava, one, layer, dropped):
    """Logits where nothing is cut: from `layer` on, keys at `dropped` slots are hidden by a mask."""
    length = one.input_ids.shape[1]
    kind = torch.float32
    mask = torch.full((length, length), torch.finfo(kind).min).triu(1)
    hidden = mask.clone()
    hidden[:, dropped] = torch.finfo(kind).min
    hidden[dropped, dropped] = 0
    with ExitStack() as stack:
        for number, block in enumerate(llava.text_model.layers):

            def hook(module, args, kwargs, chosen=hidden if number >= layer else mask):
                return args, {**kwargs, "attention_mask": chosen[None, None]}

            stack.callback(block.register_forward_pre_hook(hook, with_kwargs=True).remove)
        out = llava.model(input_ids=one.input_ids, attention_mask=one.attention_mask, pixel_values=vlm.pixels(one))
    return out.logits[:, -1]


@PLAIN
@pytest.mark.parametrize("layer", [1, 3, 5])
def test_a_cut_between_layers_equals_hiding_the_dropped_keys(llava, layer):
    batch = vlm.batch(llava)
    method, schedule, kind = vlm.cell(llava, "fastv", 6, "after_cut", layer=layer)
    for row in range(2):
        one, _ = llava.single(batch, None, row)
        state = llava.prefill(one, None, method, schedule, seed=0, budget_kind=kind)
        (kept,) = state.calls.kept(range(len(one.owner)))
        visual = (one.input_ids[0] == llava.placeholder).nonzero()[:, 0]
        dropped = [int(v) for i, v in enumerate(visual) if i not in kept]
        close(state.logits, masked_only(llava, one, layer, dropped))


@PLAIN
def test_fastv_keeps_what_the_last_prompt_token_looks_at(llava, eager):
    batch = vlm.batch(llava)
    method, schedule, _ = vlm.cell(llava, "fastv", 5, "after_cut", layer=3)
    one, _ = llava.single(batch, None, 0)
    state = llava.prefill(one, None, method, schedule, seed=0)
    maps = eager.model(
        input_ids=one.input_ids, attention_mask=one.attention_mask, pixel_values=vlm.pixels(one), output_attentions=True
    ).attentions
    visual = one.input_ids[0] == llava.placeholder
    want = maps[2][0].mean(0)[-1][visual].topk(5).indices.sort().values.tolist()
    assert state.calls.kept([0]) == (want,)


@dataclasses.dataclass
class Pyramid:
    """A selection in front of the LLM, a selection and a merge inside it, with renumbered positions."""

    cuts: tuple[Stage, ...] = (
        Stage("projector", 12),
        Stage("decoder", 8, layer=2, reads=("last_attention",)),
        Stage("decoder", 4, layer=4),
        Stage("decoder", 0, layer=5),
    )

    def reduce(self, view, keep):
        size, n, _ = view.tokens.shape
        if view.layer == 4:
            groups = torch.arange(n) * keep // n
            return Reduction.merge(groups.expand(size, n), view.sizes, position="renumber")
        if view.layer == 2:
            order = view["last_attention"].mean(1).argsort(dim=-1, descending=True, stable=True)
            return Reduction.keep(order[:, :keep].sort(-1).values, n, position="renumber")
        return Reduction.keep(torch.arange(keep).expand(size, keep), n, position="renumber")


def test_several_cuts_with_merging_keep_the_contract(llava):
    batch = vlm.batch(llava)
    schedule = lay_out(Pyramid().cuts, llava.shape)
    recorder = vlm.Recorder(Pyramid())
    answers = llava.answer(batch, None, Pyramid(), schedule, seed=0, max_new_tokens=3)
    assert [a.visual_tokens for a in answers] == [(12, 12, 8, 8, 4, 0), (24, 24, 16, 16, 8, 0)]
    assert [len(entry) for entry in answers[1].kept_indices] == [24, 16, 8, 0]
    assert sorted(m for row in answers[1].kept_indices[2] for m in row) == answers[1].kept_indices[1]
    for row in range(2):
        one, _ = llava.single(batch, None, row)
        assert llava.answer(one, None, Pyramid(), schedule, seed=0, max_new_tokens=3) == [answers[row]]
    state = llava.prefill(batch, None, recorder, schedule, seed=0)
    written = torch.zeros(2, 0, dtype=torch.long)
    for _ in range(3):
        token = state.logits.argmax(-1)
        written = torch.cat([written, token[:, None]], 1)
        state = llava.decode_step(state, token)
        again = llava.prefill(vlm.longer(batch, written), None, vlm.Repeater(recorder.made), schedule, seed=0)
        close(state.logits, again.logits)


def test_views_tell_where_tokens_stood_and_what_they_stand_for(llava):
    views = []

    class Watching(Pyramid):
        def reduce(self, view, keep):
            views.append(view)
            return super().reduce(view, keep)

    llava.answer(vlm.batch(llava), None, Watching(), lay_out(Pyramid().cuts, llava.shape), seed=0, max_new_tokens=1)
    at_projector, first, second, last = views
    assert at_projector.origin[0].tolist() == list(range(16))
    assert first.origin[0].tolist() == list(range(12))
    assert second.origin.shape == (3, 8)
    assert set(second.origin[0].tolist()) < set(range(12))
    assert last.sizes.tolist() == [[2.0] * 4] * 3
    assert last.origin.tolist() == [[-1] * 4] * 3
    assert all(v.grid == (4, 4) for v in views)


# -------------------------------------------------------------------------------------------------------------- encoder


def written_out(model, pixels, plan):
    """Features of a CLIP tower with merging, layer by layer: `plan` tokens merge between attention and MLP."""
    tower = model.model.model.vision_tower
    x = tower.pre_layrnorm(tower.embeddings(pixels))
    size = torch.ones(x.shape[:2])
    last = len(tower.encoder.layers) - 1
    for number, layer in enumerate(tower.encoder.layers[:last]):
        attention = layer.self_attn
        normed = layer.layer_norm1(x)
        parts = [
            p(normed).unflatten(-1, (4, -1)).transpose(1, 2)
            for p in (attention.q_proj, attention.k_proj, attention.v_proj)
        ]
        query, key, value = parts
        scores = query @ key.mT * attention.scale + size.log()[:, None, None]
        y = x + attention.out_proj((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
        if number < len(plan) and plan[number]:
            groups, anchor = pair_alike(key.mean(1), plan[number], 1)
            weight = torch.nn.functional.one_hot(groups, anchor.shape[1]).float().mT * size[:, None]
            size = weight.sum(-1)
            y = weight / size[..., None] @ y
        x = y + layer.mlp(layer.layer_norm2(y))
    return model.model.model.multi_modal_projector(x[:, 1:])


@PLAIN
@pytest.mark.parametrize("budget", [3, 9, 13])
def test_merging_in_the_tower_equals_the_layers_written_out(llava, budget):
    batch = vlm.batch(llava)
    method, schedule, kind = vlm.cell(llava, "tome", budget)
    left = [16, *(s.keep for s in schedule.stages)]
    plan = [a - b for a, b in pairwise(left)]
    assert [s.layer for s in schedule.stages] == list(range(len(plan)))
    want = written_out(llava, vlm.pixels(batch), plan)
    state = llava.prefill(batch, None, method, schedule, seed=0, budget_kind=kind)
    first = llava.text_model(inputs_embeds=prompt(llava, batch, 0, want[0])).last_hidden_state
    second = llava.text_model(inputs_embeds=prompt(llava, batch, 1, want[1:].flatten(0, 1))).last_hidden_state
    close(state.logits, torch.stack([llava.model.lm_head(h[0, -1]) for h in (first, second)]))


@PLAIN
def test_merged_tokens_hold_every_patch_once(llava):
    batch = vlm.batch(llava)
    method, schedule, _ = vlm.cell(llava, "tome", 5)
    answers = llava.answer(batch, None, method, schedule, seed=0, max_new_tokens=1)
    for answer, images in zip(answers, (1, 2), strict=True):
        (entry,) = answer.kept_indices
        assert len(entry) == 5 * images
        assert sorted(m for row in entry for m in row) == list(range(16 * images))


# ---------------------------------------------------------------------------------------------------------------- pixel


@PLAIN
@pytest.mark.parametrize(("budget", "side"), [(9, 3), (8, 2), (1, 1)])
def test_downsample_encodes_the_same_crop_at_a_smaller_square(llava, budget, side):
    batch = vlm.batch(llava)
    method, schedule, kind = vlm.cell(llava, "downsample", budget)
    assert schedule.stages[0].grid == (side, side)
    state = llava.prefill(batch, None, method, schedule, seed=0, budget_kind=kind)
    from transformers import CLIPImageProcessor

    small = {"height": 8 * side, "width": 8 * side}
    pixels = CLIPImageProcessor(size={"shortest_edge": 8 * side}, crop_size=small)(
        [crop.picture for crop in batch.crops], return_tensors="pt"
    )
    hidden = llava.model.model.vision_tower(
        pixels["pixel_values"], interpolate_pos_encoding=True, output_hidden_states=True
    ).hidden_states[-2]
    features = llava.model.model.multi_modal_projector(hidden[:, 1:])
    assert features.shape[1] == side * side
    out = llava.text_model(inputs_embeds=prompt(llava, batch, 0, features[0])).last_hidden_state
    close(state.logits[0], llava.model.lm_head(out[0, -1]))


# ------------------------------------------------------------------------------------------------------------- the rest


def test_half_precision_keeps_the_full_budget_exact(llava_folder, clip_folder):
    from toksweep.harness.models import open_model

    model = open_model(str(llava_folder), dtype="bf16", text_encoder=str(clip_folder))
    batch = vlm.batch(model)
    whole = model.prefill(batch, None, None, untouched(model.shape), seed=0)
    for name in vlm.SELECTORS:
        method, schedule, kind = vlm.cell(model, name, "100%")
        assert torch.equal(model.prefill(batch, None, method, schedule, seed=0, budget_kind=kind).logits, whole.logits)
    for name in vlm.COMPRESSORS:
        method, schedule, kind = vlm.cell(model, name, 9)
        answer = model.answer(batch, None, method, schedule, seed=0, max_new_tokens=2, budget_kind=kind)[1]
        assert vlm.keeps_its_promise(answer, schedule, kind)


def test_a_signal_that_the_place_does_not_have_is_refused(llava):
    stage = Stage("decoder", 8, layer=2, reads=("features",))
    with pytest.raises(UserError, match="features at the place decoder"):
        llava.prefill(vlm.batch(llava), None, Pyramid(), lay_out((stage,), llava.shape), seed=0)


def test_a_question_with_the_image_token_is_refused(llava):
    sample = vlm.sample("sly", "what is <image> ?")
    with pytest.raises(UserError, match="sample sly holds <image>"):
        llava.prepare([sample], [[tiny.picture(0)]])


@pytest.mark.parametrize(("question", "pictures", "lack"), [(None, 1, "question"), ("why?", 0, "picture")])
def test_a_sample_without_question_or_picture_is_refused(llava, question, pictures, lack):
    with pytest.raises(UserError, match=f"Sample bare has no {lack}"):
        llava.prepare([vlm.sample("bare", question)], [[tiny.picture(0)] * pictures])
