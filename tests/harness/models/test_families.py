"""What only families beside LLaVA have: grids of their own, tiles, windows, positions of three numbers."""

import sys

import families
import pytest
import tiny
import torch
import vlm
from toksweep.harness.contracts import Refusal, Region, Sample, Stage, UserError
from toksweep.harness.listing import listing
from toksweep.harness.models import describe, model_shape, open_model
from toksweep.harness.models.abilities import ORDINARY
from toksweep.harness.schedule import lay_out, untouched
from vlm import Watching, close

PLAIN = torch.no_grad()


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return {
        name: open_model(str(families.save(tmp_path_factory.mktemp("models") / name, name)), attention="eager")
        for name in families.FAMILIES
    }


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def qwen(opened, request):
    return opened[request.param]


@pytest.fixture(scope="module")
def intern(opened):
    return opened["internvl"]


@PLAIN
@pytest.mark.parametrize("name", families.FAMILIES)
def test_visual_tokens_are_those_of_the_models_own_features(opened, name):
    model = opened[name]
    batch = vlm.batch(model)
    given = vlm.native(model, batch)
    given.pop("mm_token_type_ids", None)
    want = model.model.model.get_image_features(**given).pooler_output
    close(vlm.in_prompt(model, batch), torch.cat(list(want)))


def tower_maps(model, batch, layer):
    """[heads, patches, patches], the attention map of one layer of a Qwen tower, zero between windows and images."""
    block, seen = model.model.model.visual.blocks[layer], {}

    def hook(module, args, kwargs):
        seen.update(kwargs, states=args[0] if args else kwargs["hidden_states"])

    handle = block.attn.register_forward_pre_hook(hook, with_kwargs=True)
    model.encode(batch)
    handle.remove()
    query, key, _ = block.attn.qkv(seen["states"]).unflatten(-1, (3, block.attn.num_heads, -1)).unbind(1)
    turn = sys.modules[type(block).__module__].apply_rotary_pos_emb_vision
    query, key = turn(query, key, *seen["position_embeddings"])
    scores = torch.einsum("qhd,khd->hqk", query, key) * block.attn.scaling
    window = torch.bucketize(torch.arange(len(query)), seen["cu_seqlens"][1:], right=True)
    return scores.masked_fill(window[:, None] != window, -torch.inf).softmax(-1)


@PLAIN
@pytest.mark.parametrize("layer", [0, 1, -1])
def test_received_attention_of_a_qwen_is_the_mean_over_a_tokens_patches_in_raster_order(qwen, layer):
    batch = vlm.batch(qwen)
    found = qwen.encode(batch, frozenset({f"received_attention@{layer}"})).signals[f"received_attention@{layer}"]
    columns = tower_maps(qwen, batch, layer).sum(1).unflatten(-1, (-1, 4)).mean(-1)
    start = 0
    for own, crop in zip(found, batch.crops, strict=True):
        rows, wide = crop.grid
        places = list(range(rows * wide))
        if qwen.family == "qwen2_5_vl":  # windows of 2 x 2 tokens, row by row, and row by row in each of them
            places.sort(key=lambda t: (t // wide // 2, t % wide // 2, t // wide, t % wide))
        want = torch.empty_like(own)
        want[:, places] = columns[:, start : start + crop.tokens] / (4 * crop.tokens)
        close(own, want)
        start += crop.tokens


@PLAIN
@pytest.mark.parametrize("kind", ["class_attention", "received_attention"])
def test_attention_of_an_internvl_is_the_mean_over_a_tokens_patches(intern, kind):
    batch = vlm.batch(intern)
    found = intern.encode(batch, frozenset({f"{kind}@-2"})).signals[f"{kind}@-2"]
    maps = intern.model.model.vision_tower(vlm.pixels(batch), output_attentions=True).attentions[-2]
    rows = (maps[:, :, 0] if kind == "class_attention" else maps.mean(2))[..., 1:]
    want = torch.nn.functional.avg_pool2d(rows.unflatten(-1, (8, 8)), 2).flatten(-2)
    close(torch.stack(found), want)


@PLAIN
def test_kept_tokens_of_a_qwen_stand_where_they_stood_whatever_the_method_says(qwen):
    batch = vlm.batch(qwen).of(0)
    method, schedule, _ = vlm.cell(qwen, "divprune", "50%")
    state = qwen.prefill(batch, None, method, schedule, seed=0)
    whole = qwen.prefill(batch, None, None, untouched(qwen.shape), seed=0).cutter.spans[0].position[:, 0]
    visual = (batch.input_ids[0] == qwen.placeholder).nonzero()[:, 0]
    (kept,) = state.calls.kept([0])
    places = [i for i in range(len(batch.input_ids[0])) if i not in visual or i - int(visual[0]) in kept]
    assert torch.equal(state.cutter.spans[-1].position[:, 0], whole[:, places])


def test_a_count_means_that_many_of_each_picture_or_all_it_has(qwen):
    batch = vlm.batch(qwen)  # pictures of 16, 15 and 15 tokens
    method, schedule, kind = vlm.cell(qwen, "avgpool", 15)
    answers = qwen.answer(batch, None, method, schedule, seed=0, max_new_tokens=3, budget_kind=kind)
    assert [a.visual_tokens[0] for a in answers] == [9, 30]
    for row, answer in enumerate(answers):
        one, _ = qwen.single(batch, None, row)
        assert qwen.answer(one, None, method, schedule, seed=0, max_new_tokens=3, budget_kind=kind) == [answer]
    mixed = qwen.prepare([vlm.LONG], [[tiny.picture(1), tiny.picture(2, (40, 60))]])
    (answer,) = qwen.answer(mixed, None, method, schedule, seed=0, max_new_tokens=1, budget_kind=kind)
    assert answer.visual_tokens[0] == 9 + 15
    assert answer.kept_indices[0][9:] == [[place] for place in range(16, 31)]
    method, schedule, kind = vlm.cell(qwen, "random", 400)
    assert qwen.answer(batch, None, method, schedule, seed=0, max_new_tokens=1)[1].visual_tokens == (30,) * 6


def test_a_budget_that_a_picture_cannot_reach_is_refused_for_it(qwen):
    method, schedule, _ = vlm.cell(qwen, "random", "3%")
    with pytest.raises(Refusal, match="3% of 16 tokens is less than one token"):
        qwen.prefill(vlm.batch(qwen), None, method, schedule, seed=0)


def test_pictures_of_several_sizes_in_one_sample_are_cut_apart_or_jointly(qwen):
    batch = qwen.prepare([vlm.LONG], [[tiny.picture(1), tiny.picture(2, (40, 60))]])
    assert [crop.grid for crop in batch.crops] == [(4, 4), (5, 3)]
    schedule = lay_out((Stage("projector", 8),), qwen.shape)
    watching = Watching()
    qwen.prefill(batch, None, watching, schedule, seed=0)
    assert [(view.grid, view.shape.tokens) for view in watching.views] == [((4, 4), 16), ((5, 3), 15)]
    joint = lay_out((Stage("projector", 8, joint=True),), qwen.shape)
    watching = Watching()
    qwen.prefill(batch, None, watching, joint, seed=0)
    (view,) = watching.views
    assert view.image[0].tolist() == [0] * 16 + [1] * 15
    method, schedule, _ = vlm.cell(qwen, "fastvid", 8)
    with pytest.raises(Refusal, match="frames of a clip, or other pictures of one size, and these differ"):
        qwen.prefill(batch, None, method, schedule, seed=0)


def test_where_one_view_holds_all_tiles_the_whole_comes_first(intern):
    batch = intern.prepare([vlm.LONG], [[tiny.picture(2, (40, 60))]])  # two tiles, then the whole
    assert [crop.whole for crop in batch.crops] == [False, False, True]
    watching = Watching()
    schedule = lay_out((Stage("projector", 16, joint=True),), intern.shape)
    whole = intern.prefill(batch, None, None, untouched(intern.shape), seed=0)
    state = intern.prefill(batch, None, watching, schedule, seed=0)
    (view,) = watching.views
    assert view.image[0].tolist() == [2] * 16 + [0] * 16 + [1] * 16
    encoded = intern.encode(batch)
    assert torch.equal(view.tokens[0, :16], encoded.tokens[2])
    assert torch.equal(state.logits, whole.logits)


def test_evidence_lies_in_the_tile_that_shows_it_and_in_the_whole(intern):
    sample = Sample("s", "s", (), "s", question="what?", regions=(Region((0, 0, 40, 15)),))
    batch = intern.prepare([sample], [[tiny.picture(2, (40, 60))]])
    areas = [own.view(4, 4) for own in batch.evidence]
    assert areas[0].tolist() == [[1.0] * 4] * 2 + [[0.0] * 4] * 2
    assert areas[1].sum() == 0
    assert areas[2].tolist() == [[1.0] * 4] + [[0.0] * 4] * 3


def test_only_layers_that_show_a_signal_per_token_are_offered(qwen, intern):
    for model in (qwen, intern):
        assert model.info.lacking(("encoder",), ("keys@-2", "class_token")) == [
            "the place encoder", "the signal keys@-2", "the signal class_token"
        ]  # fmt: skip
        assert model.info.lacking(("decoder",), ("keys", "received_attention@-2")) == []


def test_an_internvl_that_hands_on_something_else_is_refused():
    config = families.intern_config()
    config.vision_feature_select_strategy = "full"
    with pytest.raises(UserError, match="vision_feature_select_strategy is 'full'"):
        describe(config)


def test_a_processor_without_a_chat_template_is_named(qwen, monkeypatch):
    monkeypatch.setattr(qwen.processor, "chat_template", None)
    with pytest.raises(UserError, match=f"{qwen.family} has no chat template"):
        vlm.batch(qwen)


@pytest.mark.parametrize("ref", [row["name"] for row in listing("models")[0]])
def test_published_checkpoints_serve_what_the_list_of_methods_says(ref):
    _, info = model_shape(ref)
    assert info == ORDINARY[info.name]
