"""From samples and their decoded pictures to a batch, with everything checked that a later stage relies on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from ..contracts import Sample, UserError
from .data import Batch, Crop, Frame, Shown
from .evidence import footprint

if TYPE_CHECKING:
    from PIL.Image import Image

    from .base import VisionLanguageModel


def prepare(model: VisionLanguageModel, samples: Sequence[Sample], pictures: Sequence[Sequence[Image]]) -> Batch:
    """See `VisionLanguageModel.prepare`."""
    for sample, own in zip(samples, pictures, strict=True):
        _check_question(model, sample, own)
    prompts = [model.prompt(s, len(p)) for s, p in zip(samples, pictures, strict=True)]
    # of every sample, all pictures, or its clip
    ids, mask, seen = _clips(model, samples, prompts, pictures) or _pictures(model, prompts, pictures)
    order = [_order(own) for own in seen]
    for row, (sample, slots) in enumerate(zip(samples, order, strict=True)):
        found = int((ids[row] == model.placeholder).sum())
        if found != len(slots):
            raise UserError(
                f"The processor gives sample {sample.id} {found} placeholders for {len(slots)} visual "
                "tokens: its preprocessor_config.json does not fit its config.json."
            )
    _check_length(model, samples, pictures, mask)
    evidence = [
        _evidence(sample, number, crop)
        for sample, own in zip(samples, seen, strict=True)
        for number, picture in enumerate(own)
        for crop in picture.crops
    ]
    to = model.device
    return Batch(
        sample_ids=tuple(s.id for s in samples),
        crops=tuple(crop.to(to) for own in seen for picture in own for crop in picture.crops),
        owner=tuple(row for row, own in enumerate(seen) for picture in own for _ in picture.crops),
        input_ids=ids.to(to),
        attention_mask=mask.to(to),
        order=tuple(slots.to(to) for slots in order),
        evidence=tuple(areas.to(to) for areas in evidence),
        questions=tuple(s.question or "" for s in samples),
        clip=any(model.shows_clip(s) for s in samples),
    )


Prompted = tuple[torch.Tensor, torch.Tensor, list[list[Shown]]]
"""Ids and mask of a batch, and of every sample what its prompt shows."""


def _pictures(model: VisionLanguageModel, prompts: list[str], pictures: Sequence[Sequence[Image]]) -> Prompted:
    ids, mask, shown = model.tokenise(prompts, [picture for own in pictures for picture in own])
    left = iter(shown)
    return ids, mask, [[next(left) for _ in own] for own in pictures]


def _clips(
    model: VisionLanguageModel, samples: Sequence[Sample], prompts: list[str], pictures: Sequence[Sequence[Image]]
) -> Prompted | None:
    """None where the samples are pictures to the model.

    Raises:
        UserError: some are, and some are clips, or the frames of one are of several sizes.
    """
    shows = [model.shows_clip(sample) for sample in samples]
    if not any(shows):
        return None
    for sample, shown, own in zip(samples, shows, pictures, strict=True):
        if not shown:
            raise UserError(f"Sample {sample.id} is no clip, and a batch holds clips or pictures: ask in tasks apart.")
        if len({frame.size for frame in own}) > 1:
            raise UserError(f"The frames of clip {sample.id} differ in size: bring them to one size.")
    asked = zip(prompts, pictures, samples, strict=True)
    clips = [model.show_clip(prompt, own, sample.footage) for prompt, own, sample in asked]
    padded = model.tokenizer.pad({"input_ids": [ids.tolist() for ids, _ in clips]}, return_tensors="pt")
    ids = padded["input_ids"]
    video = getattr(model.model.config, "video_token_id", None)
    ids = ids if video is None else ids.masked_fill(ids == video, model.placeholder)
    return ids, padded["attention_mask"], [[shown] for _, shown in clips]


def _evidence(sample: Sample, number: int, crop: Crop) -> torch.Tensor:
    """What evidence covers of every patch of a crop of the sample's picture of that number; of frames that are one
    image, in whichever of them it covers most."""
    numbers = [frame for frame, _ in crop.frames] if isinstance(crop, Frame) else [number]
    areas = [footprint(sample.regions, image, crop.under, crop.grid) for image in numbers]
    return torch.stack(areas).amax(0)


def _order(pictures: Sequence[Shown]) -> torch.Tensor:
    """See `Batch.order`."""
    firsts = accumulate((len(picture.crops) for picture in pictures), initial=0)
    return torch.cat([picture.slots(first) for picture, first in zip(pictures, firsts, strict=False)])


def _check_question(model: VisionLanguageModel, sample: Sample, pictures: Sequence[Image]) -> None:
    if sample.question is None or not pictures:
        lack = "question" if sample.question is None else "picture"
        raise UserError(f"Sample {sample.id} has no {lack}: a vision-language model needs a picture and a question.")
    for token in (model.image_token, model.video_token):
        if token and token in sample.question:
            raise UserError(f"The question of sample {sample.id} holds {token}, where pictures go: reword it.")


def _check_length(
    model: VisionLanguageModel, samples: Sequence[Sample], pictures: Sequence[Sequence[Image]], mask: torch.Tensor
) -> None:
    lengths = mask.sum(1)
    most = int(model.model.config.get_text_config().max_position_embeddings)  # type: ignore[union-attr,operator]
    row = int(lengths.argmax())
    if (longest := int(lengths[row])) >= most:
        raise UserError(
            f"The prompt of sample {samples[row].id} takes {longest} tokens for {len(pictures[row])} pictures, and "
            f"the model has positions for {most}: show it fewer pictures."
        )
