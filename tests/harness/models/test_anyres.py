"""Pictures in tiles: which patches tokens come from, in which order they enter, and when newlines leave."""

from dataclasses import dataclass

import pytest
import tiny
import torch
import vlm
from toksweep.harness.contracts import Reduction, Region, Sample, Stage
from toksweep.harness.schedule import lay_out, untouched

both = pytest.mark.parametrize(
    "model", [(f, "sdpa") for f in ("llava_next", "llava_onevision")], indirect=True, ids="-".join
)
PLAIN = torch.no_grad()


@dataclass
class Pick:
    """Keeps, of every image, the tokens that `choose` takes of its grid."""

    choose: object

    def reduce(self, view, keep):
        rows, columns = view.grid
        kept = self.choose(torch.arange(rows * columns).view(rows, columns)).flatten()
        return Reduction.keep(kept.expand(len(view.tokens), -1), view.tokens.shape[1], position="renumber")


def entered(model, batch, compressor, *stages, schedule=None):
    """What stands in the places of visual tokens at the LLM's door, [tokens, dim]."""
    seen = {}

    def hook(module, args, kwargs):
        seen["tokens"] = args[0] if args else kwargs["hidden_states"]

    handle = model.text_model.layers[0].register_forward_pre_hook(hook, with_kwargs=True)
    if schedule is None:
        schedule = lay_out(stages, model.shape) if stages else untouched(model.shape)
    state = model.prefill(batch, None, compressor, schedule, seed=0, budget_kind="adaptive")
    handle.remove()
    return seen["tokens"][0, state.cutter.spans[0].visual[0] != -1]


def one(model, size=(60, 60), regions=()):
    sample = Sample("s", "s", (), "s", question="what colour is the ball?", regions=regions)
    return model.prepare([sample], [[tiny.picture(3, size)]])


@both
@pytest.mark.parametrize("choose", [lambda grid: grid[-1:], lambda grid: grid[:, 1:]])
def test_kept_tokens_stand_in_the_order_in_which_the_raster_has_them(model, choose):
    batch = one(model, (60, 48))
    whole = entered(model, batch, None)
    cut = entered(model, batch, Pick(choose), Stage("projector", 1))
    places = [int((whole == row).all(1).nonzero()[0, 0]) for row in cut]
    assert places == sorted(places)
    assert len(places) == sum(choose(torch.arange(n * m).view(n, m)).numel() for n, m in (c.grid for c in batch.crops))


@both
def test_newlines_leave_with_the_first_token(model):
    batch = one(model)
    newlines = sum(crop.separators for crop in batch.crops)
    assert newlines > 0
    whole = entered(model, batch, Pick(lambda grid: grid), Stage("projector", 1))
    assert torch.equal(whole, entered(model, batch, None))
    some = entered(model, batch, Pick(lambda grid: grid.flatten()[:-1]), Stage("projector", 1))
    assert len(some) == len(whole) - newlines - len(batch.crops)
    newline = model.model.model.image_newline
    assert not (some == newline).all(1).any()
    assert int((whole == newline).all(1).sum()) == newlines


@both
def test_what_covers_the_picture_covers_every_crop(model):
    batch = one(model, (60, 40), (Region((0, 0, 60, 40)),))
    assert all(torch.allclose(area, torch.ones_like(area)) for area in batch.evidence)
    left = one(model, (60, 40), (Region((0, 0, 30, 40)),))
    for crop, area in zip(left.crops, left.evidence, strict=True):
        inside = 1.0 if crop.under[2] <= 30 else 0.0 if crop.under[0] >= 30 else 0.5
        assert float(area.mean()) == pytest.approx(inside)


@PLAIN
@pytest.mark.parametrize("model", [("llava_next", "eager")], indirect=True, ids="-".join)
def test_signals_are_those_of_the_patches_without_margins(model):
    batch = one(model, (60, 48))
    names = ("class_attention@-2", "received_attention@1", "keys@0", "class_query@0")
    encoded = model.encode(batch, frozenset(names))
    pixels = torch.stack([crop.pixels for crop in batch.crops])
    seen = model.model.model.vision_tower(pixels, output_attentions=True, output_hidden_states=True)
    for number, crop in enumerate(batch.crops):
        top, left, bottom, right = crop.visible
        inside = torch.arange(1, 17).view(4, 4)[top:bottom, left:right].flatten()
        assert len(inside) == crop.tokens
        features = seen.hidden_states[-2][number, inside]
        assert torch.allclose(encoded.features[number], features, atol=2e-6)
        assert torch.allclose(
            encoded.signals["class_attention@-2"][number], seen.attentions[-2][number][:, 0, inside], atol=2e-6
        )
        assert torch.allclose(
            encoded.signals["received_attention@1"][number], seen.attentions[1][number].mean(1)[:, inside], atol=2e-6
        )
        keys = encoded.signals["keys@0"][number]
        assert keys.shape[1] == 1 + crop.tokens


@both
def test_a_smaller_picture_is_smaller_in_every_crop(model):
    batch = one(model, (60, 48))
    method, schedule, kind = vlm.cell(model, "downsample", 4)
    (answer,) = model.answer(batch, None, method, schedule, seed=0, max_new_tokens=1, budget_kind=kind)
    assert answer.visual_tokens[0] == sum(schedule.over([crop.grid])[0].entering for crop in batch.crops)
    assert answer.visual_tokens[0] <= 4 * len(batch.crops)


@pytest.mark.parametrize("name", ["visionzip", "duet_vlm"])
@pytest.mark.parametrize("model", [("llava_onevision", "sdpa")], indirect=True, ids="-".join)
def test_without_a_class_token_dominant_patches_enter_as_the_model_itself_would_have_them(model, name):
    batch = one(model)  # a raster that was made smaller behind the projector
    method, schedule, _ = vlm.cell(model, name, "56%", contextual=0.0)
    seen = torch.cat(model.encode(batch).tokens)
    cut = entered(model, batch, method, schedule=schedule)
    assert 0 < len(cut) < len(seen)
    assert {tuple(row) for row in cut.tolist()} <= {tuple(row) for row in seen.tolist()}
