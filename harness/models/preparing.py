"""From samples and their decoded pictures to a batch, with everything checked that a later stage relies on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..contracts import Sample, UserError
from .data import Batch
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
    # of every sample, the crops of every picture
    crops = [[next(left) for _ in own] for own in pictures]
    for row, (sample, own_crops) in enumerate(zip(samples, crops, strict=True)):
        found = int((ids[row] == model.placeholder).sum())
        wanted = sum(crop.tokens for of_picture in own_crops for crop in of_picture)
        if found != wanted:
            raise UserError(
                f"The processor gives sample {sample.id} {found} placeholders for {wanted} visual "
                "tokens: its preprocessor_config.json does not fit its config.json."
            )
    _check_length(model, samples, pictures, mask)
    evidence = [
        footprint(sample.regions, number, crop.under, crop.grid)
        for sample, own_crops in zip(samples, crops, strict=True)
        for number, of_picture in enumerate(own_crops)
        for crop in of_picture
    ]
    to = model.device
    return Batch(
        sample_ids=tuple(s.id for s in samples),
        crops=tuple(c.to(to) for own_crops in crops for of_picture in own_crops for c in of_picture),
        owner=tuple(row for row, own_crops in enumerate(crops) for of_picture in own_crops for _ in of_picture),
        input_ids=ids.to(to),
        attention_mask=mask.to(to),
        evidence=tuple(areas.to(to) for areas in evidence),
        questions=tuple(s.question or "" for s in samples),
    )


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
