"""What tests of compression inside a model share: batches, cells, and a compressor that repeats recorded choices."""

from __future__ import annotations

import dataclasses

import tiny
import torch
from PIL import Image
from toksweep.harness.contracts import Budget, Reduction, Region, Sample
from toksweep.harness.models.data import SEPARATOR
from toksweep.harness.registry import registry
from toksweep.harness.schedule import resolve, untouched

EVERY = [e for e in registry("methods") if e.kind == "compressor"]
ENTRIES = [e for e in EVERY if not e.meta["clips"]]
CLIP_SELECTORS = [e.name for e in EVERY if e.meta["clips"] and not e.meta["merges"]]
SELECTORS = [e.name for e in ENTRIES if not e.meta["merges"]]
MERGERS = [e.name for e in ENTRIES if e.meta["merges"]]
COMPRESSORS = [*SELECTORS, *MERGERS]


def sample(name: str, question: str) -> Sample:
    evidence = (Region((0, 0, 24, 20)), Region((8, 8, 30, 40), image=1))
    return Sample(name, name, (), name, question=question, regions=evidence)


SHORT = sample("short", "what colour is the ball?")
LATE = Region((4, 4, 20, 20), image=3)
LONG = sample("long", "how many dogs are there on the left of a red ball?")


def on_clips(model) -> bool:
    """Is this one of the models that tests show clips to?"""
    return getattr(model, "tested_on_clips", False)


def shape(model):
    """Of what tests show a model: pictures, or clips."""
    return model.shape.of_clips() if on_clips(model) else model.shape


def clip(seed, frames, size=(48, 40)):
    """Frames of noise over a picture that stays."""
    still = tiny.picture(seed, size)
    return [Image.blend(still, tiny.picture(1000 * seed + i, size), 0.2 + 0.1 * i) for i in range(frames)]


def batch(model, *, order=(0, 1)):
    """Two samples of different prompts and different numbers of pictures; where counts vary, they differ too. Or two
    clips of different lengths."""
    tall = (40, 60)
    if on_clips(model):
        short, long = (dataclasses.replace(s, clip=True, regions=(*s.regions, LATE)) for s in (SHORT, LONG))
        both = [(short, clip(0, 4)), (long, clip(1, 7 if model.family.startswith("qwen") else 5, tall))]
        return model.prepare([both[i][0] for i in order], [both[i][1] for i in order])
    second = tiny.picture(1, tall) if model.shape.varies else tiny.picture(1)
    both = [(SHORT, [tiny.picture(0)]), (LONG, [second, tiny.picture(2, tall)])]
    return model.prepare([both[i][0] for i in order], [both[i][1] for i in order])


def pixels(batch):
    """What a model whose images are all of one size is given, [images, 3, height, width]."""
    return torch.stack([crop.pixels for crop in batch.crops])


def native(model, batch):
    """What a model's own call is given for the pictures of a batch."""
    if batch.clip:
        return native_clips(model, batch)
    if not model.shape.varies:
        return {"pixel_values": pixels(batch)}
    if model.shape.crops:
        wholes = [number for number, crop in enumerate(batch.crops) if crop.whole]
        pictures = [pixels(batch)[a:b] for a, b in zip(wholes, [*wholes[1:], len(batch.crops)], strict=True)]
        sizes = [batch.crops[number].size for number in wholes]
        found = {"pixel_values": torch.cat(pictures), "image_sizes": torch.tensor(sizes)}
        if model.family == "llava_onevision":
            owners = [batch.owner[number] for number in wholes]
            found["batch_num_images"] = torch.tensor([owners.count(row) for row in sorted(set(owners))])
        return found
    grids = torch.tensor([(1, 2 * rows, 2 * columns) for rows, columns in (crop.grid for crop in batch.crops)])
    kinds = (batch.input_ids == model.placeholder).int()
    patches = torch.cat([crop.pixels for crop in batch.crops])
    return {"pixel_values": patches, "image_grid_thw": grids, "mm_token_type_ids": kinds}


def native_clips(model, batch):
    """The same for one clip, as most classes take clips of one length only, with the placeholders of clips."""
    video = getattr(model.model.config, "video_token_id", model.placeholder)
    given = {"input_ids": batch.input_ids.masked_fill(batch.input_ids == model.placeholder, video)}
    if model.family.startswith("qwen"):
        rows, columns = batch.crops[0].grid
        given |= {
            "pixel_values_videos": torch.cat([crop.pixels for crop in batch.crops]),
            "video_grid_thw": torch.tensor([(len(batch.crops), 2 * rows, 2 * columns)]),
            "mm_token_type_ids": 2 * (batch.input_ids == model.placeholder).int(),
        }
        return given | ({"second_per_grid_ts": [1.0]} if model.family == "qwen2_5_vl" else {})
    if model.family == "internvl":
        return given | {"pixel_values": pixels(batch)}
    return given | {"pixel_values_videos": pixels(batch)[None]}


def in_prompt(model, batch):
    """The visual tokens of a batch, separators included, in the order of their placeholders."""
    encoded = model.encode(batch)
    found = []
    for row, order in enumerate(batch.order):
        images = batch.images_of(row)
        tokens = {number: iter(encoded.tokens[image]) for number, image in enumerate(images)}
        if SEPARATOR in order:
            rows = model.separators(batch.crops, encoded)
            tokens[SEPARATOR] = iter(torch.cat([rows[image] for image in images]))
        found += [next(tokens[number]) for number in order.tolist()]
    return torch.stack(found)


def cell(model, name: str, budget: str | int = "56%", convention: str = "mean", **parameters):
    """Compressor, schedule and budget kind of a registered method."""
    if name == "none":
        return None, untouched(shape(model)), "exact"
    entry = registry("methods").get(name)
    method = entry.build(parameters)
    merges = entry.meta["merges"]
    schedule = resolve(method, Budget.parse(budget), convention, shape(model), merges=merges)
    return method, schedule, entry.meta["budget_kind"]


def reads(schedule):
    """What a shared encoding must hold for a schedule."""
    return frozenset(name for stage in schedule.stages if stage.place == "projector" for name in stage.reads)


def keeps_its_promise(answer, schedule, kind) -> bool:
    """Tokens at every layer are what the images' schedules say, or fewer, as the kind of budget allows; separators
    stay with the whole."""
    whole = sum(rows * columns for rows, columns in answer.grids)
    counts = [sum(seen) for seen in zip(*(one.layers for one in schedule.over(answer.grids)), strict=True)]
    promised = [answer.tokens_full if count == whole else count for count in counts]
    if kind == "exact":
        return list(answer.visual_tokens) == promised
    return kind == "adaptive" or all(got <= n for got, n in zip(answer.visual_tokens, promised, strict=True))


def able(info, *, clip: bool = False, clips: bool = False) -> list[str]:
    """Compressors that a family serves on pictures, or on `clips`; `clip` says that a text encoder is at hand."""
    found = [e for e in (EVERY if clips else ENTRIES) if info.on(clips).serves(e.meta)]
    return [e.name for e in found if clip or not any(need.startswith("clip_") for need in e.meta["needs"])]


@dataclasses.dataclass
class Watching:
    """Keeps the first tokens, and all views."""

    views: list = dataclasses.field(default_factory=list)

    def reduce(self, view, keep):
        self.views.append(view)
        return Reduction.keep(torch.arange(keep).expand(len(view.tokens), keep), view.tokens.shape[1])


def close(a, b, atol=2e-6):
    assert a.shape == b.shape
    assert torch.allclose(a, b, rtol=0, atol=atol), float((a - b).abs().max())


class Recorder:
    """Passes calls on and keeps what came back."""

    def __init__(self, method):
        self.method, self.made = method, []

    def stages(self, keep, shape):
        return self.method.stages(keep, shape)

    def reduce(self, view, keep):
        self.made.append(self.method.reduce(view, keep))
        return self.made[-1]


class Repeater:
    """Answers with recorded reductions, in order."""

    def __init__(self, made):
        self._left = list(made)

    def stages(self, keep, shape):
        raise AssertionError("a repeater runs under the recorded schedule")

    def reduce(self, view, keep):
        return self._left.pop(0)


def longer(batch, tokens):
    """The batch with [batch, steps] more prompt tokens."""
    mask = torch.cat([batch.attention_mask, torch.ones_like(tokens)], 1)
    return dataclasses.replace(batch, input_ids=torch.cat([batch.input_ids, tokens], 1), attention_mask=mask)
