"""FLOPs of the families beside LLaVA: the closed form, the counter on the meta device, and what a real run spends."""

import families
import pytest
import torch
import vlm
from toksweep.harness.contracts import Reduction, Stage
from toksweep.harness.cost.closed_form import closed_form, flops_to_first_token
from toksweep.harness.cost.compressor import selector_flops
from toksweep.harness.cost.flops import FlopCounter
from toksweep.harness.cost.towers import Tower
from toksweep.harness.models import describe, open_model
from toksweep.harness.models.published import load_config
from toksweep.harness.schedule import lay_out, untouched
from torch.utils.flop_counter import FlopCounterMode

CUTS = {
    "everything": (),
    "pixel": (Stage("pixel", 4, grid=(2, 2)),),
    "projector": (Stage("projector", 5, reads=("received_attention@0", "received_attention@-1")),),
    "before the projector": (Stage("projector", 5, features=True),),
    "decoder": (Stage("decoder", 7, layer=1), Stage("decoder", 2, layer=3, reads=("next_last_attention",))),
}
_QWEN = [(4, 4), (5, 3), (7, 10)]
GRIDS = {
    "qwen2_5_vl": _QWEN, "qwen3_vl": _QWEN, "internvl": [(4, 4)], "llava_next": [(4, 4), (3, 4)],
    "llava_onevision": [(4, 4), (3, 3)], "llava_next_video": [(4, 4), (3, 4)], "video_llava": [(4, 4)],
}  # fmt: skip
CLIPS = {"qwen2_5_vl": [(5, 3)], "qwen3_vl": [(5, 3)]}
"""Grids of images of clips, where frames have their own."""


class First:
    """Keeps the first tokens."""

    def reduce(self, view, keep):
        return Reduction.keep(torch.arange(keep)[None], view.tokens.shape[1])


@pytest.mark.parametrize("family", GRIDS)
def test_the_counter_equals_the_closed_form_wherever_tokens_are_cut(family):
    config, (shape, _) = families.FAMILIES[family][0](), families.info(family)
    counter = FlopCounter(config)
    for grid in GRIDS[family]:
        for name, stages in CUTS.items():
            schedule = lay_out(stages, shape.at(grid))
            for images in (1, 3):
                counted = counter.count(schedule, 5, First(), images=images)
                assert counted == closed_form(config, schedule, 5, images=images), (grid, name, images)


@pytest.mark.parametrize("family", families.CLIPS)
def test_so_it_does_for_an_image_of_a_clip(family):
    config, (shape, _) = families.makers(f"{family}-clip")[0](), families.info(f"{family}-clip")
    counter, frame = FlopCounter(config), shape.of_clips()
    for grid in CLIPS.get(family, [frame.grid]):
        for name, stages in CUTS.items():
            schedule = lay_out(stages, frame.at(grid))
            assert counter.count(schedule, 5, First()) == closed_form(config, schedule, 5), (grid, name)


def test_pooling_a_frame_is_free_and_spares_the_projector_only_in_front_of_it():
    for ref, frame, rows in (
        ("llava-hf/llava-onevision-qwen2-7b-ov-hf", 196, 729),
        ("llava-hf/LLaVA-NeXT-Video-7B-hf", 144, 144),
        ("LanguageBind/Video-LLaVA-7B-hf", 256, 257),
    ):
        config = load_config(ref)
        shape = describe(config)[0]
        whole, clip = (closed_form(config, untouched(own), 32) for own in (shape, shape.of_clips()))
        width, out = config.vision_config.hidden_size, config.text_config.hidden_size
        assert shape.of_clips().tokens == frame
        assert clip.vision == whole.vision
        assert clip.projector == 2 * rows * (width * out + out * out)


def test_a_qwen_of_seven_billion_costs_what_was_counted_for_it():
    config = load_config("Qwen/Qwen2.5-VL-7B-Instruct")
    shape = describe(config)[0].at((24, 32))
    found = closed_form(config, untouched(shape), 32)
    assert found.vision + found.projector == pytest.approx(4.170e12, rel=1e-3)
    for kept, prefill in ((768, 1.070e13), (256, 3.792e12), (128, 2.098e12)):
        assert sum(closed_form(config, lay_out((Stage("projector", kept),), shape), 32).per_layer) == pytest.approx(
            prefill, rel=1e-3
        )


@pytest.mark.parametrize("scale", [1, 2], ids=["whole", "half as wide and high"])
def test_deepstack_features_of_all_tokens_are_merged_in_the_tower_as_tokens_are_behind_it(scale):
    config, (shape, _) = families.qwen3_config(), families.info("qwen3_vl")
    shape = shape.at((6, 4))
    grid = (6 // scale, 4 // scale)
    schedule = lay_out((Stage("pixel", grid[0] * grid[1], grid=grid),) if scale > 1 else (), shape)
    found = closed_form(config, schedule, 5)
    patches, joined = 4 * grid[0] * grid[1], 4 * 32
    embed, layer = 2 * patches * 96 * 32, 2 * patches * (4 * 32 * 32 + 2 * 32 * 48) + 4 * patches**2 * 32
    assert found.projector == 2 * patches // 4 * joined * (joined + 64)
    assert found.vision == embed + 5 * layer + 3 * found.projector
    cut = closed_form(config, lay_out((*schedule.stages, Stage("projector", 2, features=True)), shape), 5)
    assert (cut.vision, cut.projector) == (found.vision, 2 * 2 * joined * (joined + 64))


@pytest.mark.parametrize(
    "ref",
    [
        "Qwen/Qwen2.5-VL-7B-Instruct",
        "Qwen/Qwen3-VL-8B-Instruct",
        "OpenGVLab/InternVL3-8B-hf",
        "llava-hf/llava-v1.6-mistral-7b-hf",
        "llava-hf/llava-onevision-qwen2-7b-ov-hf",
        "llava-hf/LLaVA-NeXT-Video-7B-hf",
        "LanguageBind/Video-LLaVA-7B-hf",
    ],
)
def test_the_counter_equals_the_closed_form_for_published_models(ref):
    config = load_config(ref)
    schedule = lay_out((Stage("decoder", 64, layer=2),), describe(config)[0])
    assert FlopCounter(config).count(schedule, 64) == closed_form(config, schedule, 64)


def test_windows_at_the_edge_are_smaller():
    config, shape = families.qwen_config(), families.info("qwen2_5_vl")[0].at((5, 3))
    schedule = untouched(shape)
    assert sorted(Tower.of(config).segments(schedule, 0)) == [4, 8, 8, 8, 16, 16]
    assert Tower.of(config).segments(schedule, 1) == [60]


@pytest.fixture(scope="module")
def eager(tmp_path_factory):
    # Eager, whose matrix products every version of the counter sees.
    found = {}
    for name in (*GRIDS, *(f"{family}-clip" for family in families.CLIPS)):
        found[name] = open_model(str(families.save(tmp_path_factory.mktemp("models") / name, name)), attention="eager")
        found[name].tested_on_clips = name.endswith("-clip")
    return found


ITERATING = {"centerclip", "holitom", "prunevid", "vqtoken"}
"""Methods whose number of products depends on the values that they cluster."""
SERVED = [(family, name) for family in GRIDS for name in ("none", *vlm.able(families.info(family)[1]))]
SERVED += [
    (f"{family}-clip", name)
    for family in families.CLIPS
    for name in ("none", *vlm.able(families.info(family)[1], clips=True))
    if name in ("none", "downsample", "tome", "visionzip", "hiprune", "dycoke", "prunevid", "fastv")
]


@pytest.mark.parametrize(("family", "name"), SERVED)
def test_a_first_token_costs_what_the_closed_form_says(eager, family, name):
    model = eager[family]
    batch = vlm.batch(model).of(1)
    method, schedule, kind = vlm.cell(model, name)
    with FlopCounterMode(display=False) as spent:
        model.prefill(batch, None, method, schedule, seed=0, budget_kind=kind)
    (answer,) = model.answer(batch, None, method, schedule, seed=0, max_new_tokens=1, budget_kind=kind)
    config, about = model.model.config, {"images": answer.grids, "behind": answer.text_behind}
    text = answer.text_tokens
    selector = selector_flops(config, schedule, method, text_tokens=text, **about) if method else 0
    expected = flops_to_first_token(config, schedule, text, answer.visual_tokens, selector=selector, **about)
    assert spent.get_total_flops() == pytest.approx(expected, rel=0.02 if name in ITERATING else 0)
