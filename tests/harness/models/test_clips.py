"""Clips as the families' own processors show them, against the models' own features and frames seen one by one."""

import dataclasses

import families
import pytest
import tiny
import torch
import vlm
from toksweep.harness.contracts import Budget, Refusal, Region, Sample, Stage, UserError
from toksweep.harness.fitting import check_task
from toksweep.harness.listing import serving
from toksweep.harness.models import ModelInfo, describe
from toksweep.harness.models.data import SEPARATOR
from toksweep.harness.models.published import load_config
from toksweep.harness.registry import registry
from toksweep.harness.schedule import lay_out, resolve, untouched
from vlm import Watching, close

PLAIN = torch.no_grad()
CLIPS = [f"{family}-clip" for family in families.CLIPS]
POOLED = ["llava_onevision-clip", "llava_next_video-clip"]


@pytest.fixture(params=CLIPS)
def any_model(request, opened):
    return opened(request.param, "sdpa")


def asked(question="what?", frames=4, **more):
    return Sample("s", "s", (), "s", question=question, clip=True, **more), vlm.clip(3, frames)


def prepared(model, question="what?", frames=4, **more):
    sample, own = asked(question, frames, **more)
    return model.prepare([sample], [own])


# ------------------------------------------------------------------------------------------------- what the model sees


@PLAIN
def test_visual_tokens_of_a_clip_are_those_of_the_models_own_video_features(any_model):
    one, core = vlm.batch(any_model).of(1), any_model.model.model
    given = vlm.native(any_model, one)
    pixels = {name: value for name, value in given.items() if name.startswith(("pixel_values", "video_grid"))}
    features = core.get_image_features if "pixel_values" in pixels else core.get_video_features
    want = torch.cat(list(features(**pixels).pooler_output))
    close(vlm.in_prompt(any_model, one), want.flatten(0, -2))


def test_every_frame_is_shown_whatever_the_processor_samples(any_model, monkeypatch):
    monkeypatch.setattr(any_model.processor.video_processor, "do_sample_frames", True)
    monkeypatch.setattr(any_model.processor.video_processor, "num_frames", 2)
    batch = prepared(any_model, frames=6)
    shown = [frame for crop in batch.crops for frame, _ in crop.frames]
    assert shown == list(range(6))
    assert all(not torch.equal(a.pixels, b.pixels) for a, b in zip(batch.crops, batch.crops[1:], strict=False))


def test_the_last_of_an_odd_number_of_frames_stands_alone_where_two_are_joined(opened):
    batch = prepared(opened("qwen3_vl-clip", "sdpa"), frames=5)
    assert [[frame for frame, _ in crop.frames] for crop in batch.crops] == [[0, 1], [2, 3], [4]]


def test_newlines_and_class_tokens_are_the_only_separators(any_model):
    (order,) = prepared(any_model, frames=4).order
    places = (order == SEPARATOR).nonzero()[:, 0].tolist()
    if any_model.family == "llava_onevision":
        assert places == [len(order) - 1]
    elif any_model.family == "video_llava":
        assert places == [0, 17, 34, 51]
    else:
        assert places == []


def test_evidence_lies_in_the_frame_that_shows_it_or_in_what_it_is_joined_to(any_model):
    late = Region((0, 0, 48, 40), image=3)
    alone, both = (
        prepared(any_model, regions=own).evidence for own in ((late,), (late, Region((0, 0, 48, 40), image=2)))
    )
    shows = [any(frame == 3 for frame, _ in crop.frames) for crop in prepared(any_model).crops]
    assert [bool(areas.all()) for areas in alone] == shows
    assert [bool(areas.any()) for areas in alone] == shows
    if any_model.family.startswith("qwen"):  # what two frames show in one place is there once
        assert all(map(torch.equal, alone, both))


def test_a_frame_is_no_crop_and_one_view_holds_them_all_in_order(any_model):
    batch = prepared(any_model, frames=4)
    n = batch.crops[0].tokens
    watching = Watching()
    schedule = lay_out((Stage("projector", n // 2, joint=True),), any_model.shape.of_clips().at(batch.crops[0].grid))
    state = any_model.prefill(batch, None, watching, schedule, seed=0)
    (view,) = watching.views
    assert view.image[0].tolist() == [number for number in range(len(batch.crops)) for _ in range(n)]
    assert view.shape.clip and not view.shape.crops and view.shape.grid == view.grid == batch.crops[0].grid
    assert state.cutter.spans[0].counts().tolist() == [len(batch.crops) * (n // 2)]  # separators have left


# -------------------------------------------------------------------------------------------------- positions of a Qwen


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
@PLAIN
def test_positions_are_the_models_own_and_an_answer_stands_behind_the_text_even_where_the_clip_is_longer(
    opened, family
):
    model = opened(f"{family}-clip", "sdpa")
    one = prepared(model, frames=24)
    given = vlm.native(model, one)
    ids = given.pop("input_ids")
    wanted, _ = model.model.model.get_rope_index(
        ids, **{name: value for name, value in given.items() if name != "pixel_values_videos"},
        attention_mask=one.attention_mask,
    )  # fmt: skip
    state = model.prefill(one, None, None, untouched(model.shape), seed=0)
    assert torch.equal(state.cutter.spans[0].position, wanted)
    late = bool(wanted.max() > wanted[..., -1].max())  # later than the text behind the clip
    assert late == (family == "qwen2_5_vl")
    theirs = model.model.generate(
        input_ids=ids, attention_mask=one.attention_mask, **given, max_new_tokens=4, do_sample=False,
        return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    for logits in theirs.logits:
        close(state.logits, logits, 1e-5)
        state = model.decode_step(state)


# ------------------------------------------------------------------------------------------ pooling, and smaller frames


def halved(family, raster):
    """Means of 2 x 2, or what lies between neighbours where a side is halved and rounded up."""
    if family == "llava_next_video":
        return torch.nn.functional.avg_pool2d(raster, 2)
    side = -(-raster.shape[-1] // 2)
    return torch.nn.functional.interpolate(raster, (side, side), mode="bilinear", align_corners=False)


def rows_of(raster):
    return raster.flatten(2).transpose(1, 2)


@PLAIN
@pytest.mark.parametrize("name", POOLED)
def test_what_is_read_of_patches_is_pooled_as_tokens_are(opened, name):
    model = opened(name, "eager")
    one, first = vlm.batch(model).of(0), int(model.shape.class_token)
    reads = {"received_attention@-2", "keys@-2"} | ({"class_attention@-2"} if first else set())
    encoded = model.encode(one, frozenset(reads))
    block = model.blocks(one.crops)[-2]
    seen = {}
    handle = block.attention.k_proj.register_forward_hook(lambda module, args, out: seen.update(keys=out))
    out = model.model.model.vision_tower(vlm.pixels(one), output_attentions=True, output_hidden_states=True)
    handle.remove()
    side = model.shape.grid[0]

    def raster(rows):
        return rows.unflatten(-1, (side, side))

    maps = out.attentions[-2]
    close(
        torch.stack(encoded.signals["received_attention@-2"]),
        halved(model.family, raster(maps.mean(2)[..., first:])).flatten(-2),
    )
    if first:
        close(
            torch.stack(encoded.signals["class_attention@-2"]),
            halved(model.family, raster(maps[:, :, 0, 1:])).flatten(-2),
        )
    keys = seen["keys"].unflatten(-1, (4, 8)).transpose(1, 2)  # [frames, heads, n, d]
    pooled = halved(model.family, raster(keys[:, :, first:].transpose(2, 3).flatten(1, 2)))
    found = torch.stack(encoded.signals["keys@-2"])
    close(found[:, :, first:], pooled.flatten(2).unflatten(1, (4, 8)).transpose(2, 3))
    assert torch.equal(found[:, :, :first], keys[:, :, :first])
    hidden = out.hidden_states[model.model.config.vision_feature_layer][:, first:]
    close(torch.stack(encoded.features), rows_of(halved(model.family, raster(hidden.transpose(1, 2)))))


@PLAIN
@pytest.mark.parametrize("name", [*POOLED, "video_llava-clip"])
def test_a_smaller_frame_is_encoded_and_pooled_at_its_own_size(opened, name):
    model = opened(name, "sdpa")
    one, core, pools = vlm.batch(model).of(0), model.model.model, name in POOLED
    schedule = lay_out((Stage("pixel", 6, grid=(3, 2)),), model.shape.of_clips())
    state = model.prefill(one, None, Watching(), schedule, seed=0)
    size = (48, 32) if pools else (24, 16)
    frames = torch.nn.functional.interpolate(vlm.pixels(one), size, mode="bicubic", antialias=True)
    tower = core.vision_tower if pools else core.video_tower
    layer = model.model.config.vision_feature_layer
    out = tower(frames, output_hidden_states=True, interpolate_pos_encoding=True).hidden_states[layer]
    rows = out[:, int(model.shape.class_token) :]

    def mean(values):
        if not pools:
            return values
        return rows_of(torch.nn.functional.avg_pool2d(values.transpose(1, 2).unflatten(-1, (6, 4)), 2))

    late = model.family == "llava_onevision"  # bilinear between two is their mean
    tokens = mean(core.multi_modal_projector(rows)) if late else core.multi_modal_projector(mean(rows))
    before, behind = (one.input_ids[0] == model.placeholder).nonzero()[[0, -1], 0].tolist()
    middle = one.input_ids.new_full((1, 24), model.placeholder)
    ids = torch.cat([one.input_ids[:, :before], middle, one.input_ids[:, behind + 1 :]], 1)
    want = model.model(input_ids=ids, mm_encoder_outputs={"image": model.container(tokens.flatten(0, 1))}).logits
    close(state.logits, want[:, -1], 1e-5)


# -------------------------------------------------------------------------------------------------------- what is asked


def test_pictures_and_clips_are_not_asked_about_together(any_model):
    sample, frames = asked()
    with pytest.raises(UserError, match="Sample short is no clip, and a batch holds clips or pictures"):
        any_model.prepare([sample, vlm.SHORT], [frames, [tiny.picture(0)]])


def test_frames_of_several_sizes_and_a_question_with_a_place_for_a_clip_are_mistakes(any_model):
    sample, frames = asked()
    with pytest.raises(UserError, match="The frames of clip s differ in size"):
        any_model.prepare([sample], [[*frames, tiny.picture(0, (10, 10))]])
    token = any_model.processor.video_token
    with pytest.raises(UserError, match="where pictures go"):
        prepared(any_model, question=f"what is {token}?")


def test_what_is_served_on_pictures_may_not_be_on_clips(opened):
    model = opened("video_llava-clip", "sdpa")
    method, schedule, _ = vlm.cell(model, "dymu", "50%")
    with pytest.raises(UserError, match="The family video_llava does not serve the place attention on clips"):
        model.prefill(prepared(model), None, method, schedule, seed=0)


def test_a_family_without_clips_is_shown_the_frames_as_pictures(opened):
    batch = prepared(opened("llava", "sdpa"), frames=3)
    assert not batch.clip and len(batch.crops) == 3


def test_a_pooler_of_another_kind_is_refused():
    config = families.FAMILIES["llava_next_video"][0]()
    config.spatial_pool_mode = "max"
    with pytest.raises(UserError, match="spatial_pool_mode 'max'"):
        describe(config)


def test_methods_of_frames_are_for_clips_of_families_that_show_pictures_in_uneven_crops():
    holitom, dycoke = (registry("methods").get(name) for name in ("holitom", "dycoke"))
    clips, pictures = (registry("tasks").get(name) for name in ("synth_video_qa", "synth_vqa"))
    info = ModelInfo("one", *describe(load_config("llava-hf/llava-onevision-qwen2-7b-ov-hf")))
    sample, _ = asked()
    check_task(holitom, clips, info.asked_about([sample]))
    assert info.asked_about([sample]).shape.tokens == 196
    with pytest.raises(Refusal, match="shows a picture in crops of several"):
        check_task(holitom, pictures, info.asked_about([vlm.SHORT]))
    with pytest.raises(UserError, match="one is asked about pictures and clips in one task"):
        info.asked_about([sample, dataclasses.replace(sample, clip=False)])
    assert {"llava_onevision", "llava_next_video", "video_llava"} <= {*serving(dycoke.meta)}
    assert "llava_next" not in serving(dycoke.meta)


@pytest.mark.parametrize("name", ["aim", "divprune", "uniform"])
def test_a_clips_budget_is_kept_to_the_token_over_all_its_images(any_model, name):
    entry = registry("methods").get(name)
    batch = prepared(any_model, frames=5)
    total = sum(crop.tokens for crop in batch.crops) // 2 - 1  # which the number of images need not divide
    shape = any_model.shape.of_clips()
    schedule = resolve(
        entry.build(), Budget.parse(f"{total}/clip"), "entering", shape, merges=bool(entry.meta["merges"])
    )
    (answer,) = any_model.answer(batch, None, entry.build(), schedule, seed=0, max_new_tokens=1)
    assert answer.visual_tokens[0] == total
    assert len(answer.grids) == len(batch.crops)


@pytest.mark.parametrize("name", ["tome", "pitome"])
def test_merging_in_the_tower_keeps_a_clips_budget_too(opened, name):
    model, entry = opened("llava", "sdpa"), registry("methods").get(name)  # which is shown frames as pictures
    batch, full = prepared(model, frames=3), model.shape.tokens
    schedule = resolve(entry.build(), Budget.parse(f"{3 * full - 2}/clip"), "entering", model.shape, merges=True)
    assert [one.entering for one in schedule.over([crop.grid for crop in batch.crops])] == [full, full - 1, full - 1]
    (answer,) = model.answer(batch, None, entry.build(), schedule, seed=0, max_new_tokens=1)
    assert answer.visual_tokens[0] == 3 * full - 2  # the first frame is bypassed
