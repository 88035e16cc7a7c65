"""From samples and their decoded pictures to a batch, with everything checked that a later stage relies on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from ..contracts import Sample, UserError
from .data import Batch, Shown
from .evidence import footprint

if TYPE_CHECKING:
    from PIL.Image import Image

    from .base import VisionLanguageModel


def prepare(model: VisionLanguageModel, samples: Sequence[Sample], pictures: Sequence[Sequence[Image]]) -> Batch:
    """See `VisionLanguageModel.prepare`."""
    for sample, own in zip(samples, pictures, strict=True):
        _check_question(model, sample, own)
    prompts = [model.prompt(s, len(p)) for s, p in zip(samples, pictures, strict=True)]
    ids, mask, shown = model.tokenise(prompts, [picture for own in pictures for picture in own])
    left = iter(shown)
    # of every sample, all pictures
    seen = [[next(left) for _ in own] for own in pictures]
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
        footprint(sample.regions, number, crop.under, crop.grid)
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
    )


def _order(pictures: Sequence[Shown]) -> torch.Tensor:
    """See `Batch.order`."""
    firsts = accumulate((len(picture.crops) for picture in pictures), initial=0)
    return torch.cat([picture.slots(first) for picture, first in zip(pictures, firsts, strict=False)])


def _check_question(model: VisionLanguageModel, sample: Sample, pictures: Sequence[Image]) -> None:
    if sample.question is None or not pictures:
        lack = "question" if sample.question is None else "picture"
        raise UserError(f"Sample {sample.id} has no {lack}: a vision-language model needs a picture and a question.")
    if model.image_token in sample.question:
        raise UserError(f"The question of sample {sample.id} holds {model.image_token}, where pictures go: reword it.")


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
