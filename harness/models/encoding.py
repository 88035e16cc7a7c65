"""The vision pass: features of every image, the signals that methods read, and merging inside the tower."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

import torch

from ..schedule import Cut
from .abilities import CLIP
from .calls import Calls
from .data import Batch, Crop, Encoded
from .encoder import Merger

if TYPE_CHECKING:
    from .base import VisionLanguageModel


def encode(
    model: VisionLanguageModel, batch: Batch, reads: frozenset[str], cuts: Sequence[Cut], calls: Calls | None
) -> Encoded:
    """Features and signals of a batch, with the cuts before and inside the tower.

    Args:
        calls: of the compressor that the cuts belong to.
    """
    inside = [cut for cut in cuts if cut.stage.place == "encoder"]
    class_index = 0 if model.shape.class_token else None
    resized = any(cut.stage.place == "pixel" for cut in cuts)
    crops = list(batch.crops)
    if calls and resized:
        with model.watch.phase("compressor"):
            crops = [_shrunk(model, crop, grid) for crop, grid in zip(crops, calls.grids, strict=True)]
    # Pictures whose counts may differ go through the tower one by one, and those that are to keep other counts than
    # their neighbours apart from these: no layer has to know of padding.
    alone = bool(inside) and calls is not None and calls.kind == "adaptive"
    stages = [[cut.stages[i] for cut in inside if i in cut.stages] for i in range(len(crops))]
    alike = groupby(range(len(crops)), lambda i: (alone and i, stages[i]))
    seen: list[torch.Tensor] = []
    along: list[torch.Tensor] = []
    finishes: list[Callable[[], Sequence[torch.Tensor]]] = []
    listed: dict[str, list[torch.Tensor]] = {}
    for images in [list(run) for _, run in alike]:
        own, merging = [crops[i] for i in images], stages[images[0]]
        with ExitStack() as stack:
            stack.enter_context(model.watch.phase("compressor"))  # signals are ready when `listening` has been left
            found = stack.enter_context(model.listening(reads, own))
            if calls and merging:
                merger = Merger(model.blocks(own), merging, calls, class_index, images, model.watch)
                stack.enter_context(merger.attached())
            elif calls:  # the budget of these is all that they have
                for cut in inside:
                    calls.pass_by(cut.stage, images)
            stack.enter_context(model.watch.phase("vision"))
            sight = model.see(own, resized=resized)
        seen += sight.rows
        along += sight.along
        if sight.tokens:
            finishes.append(sight.tokens)
        for name, values in found.items():
            listed.setdefault(name, []).extend(values)
    if "evidence" in reads:
        if not any(bool(areas.any()) for areas in batch.evidence):
            raise ValueError("the sample names no evidence, which this diagnostic method reads")
        listed["evidence"] = list(batch.evidence)
    first = int(class_index is not None)
    features = tuple(rows[first:] for rows in seen)
    signals = {name: tuple(values) for name, values in listed.items()}
    with model.watch.phase("compressor"):
        signals |= _clip_signals(model, batch, reads, features)
    classes = tuple(rows[:1] for rows in seen) if first else ()
    whole = (lambda: [tokens for finish in finishes for tokens in finish()]) if finishes else None
    return Encoded(features, classes, model.project, signals, whole, tuple(along))


def _shrunk(model: VisionLanguageModel, crop: Crop, grid: tuple[int, int]) -> Crop:
    if grid == crop.grid:
        return crop
    return replace(crop, pixels=model.shrink(crop, grid).to(crop.pixels.device), grid=grid)


def _clip_signals(
    model: VisionLanguageModel, batch: Batch, reads: frozenset[str], features: tuple[torch.Tensor, ...]
) -> dict[str, tuple[torch.Tensor, ...]]:
    if not CLIP & reads:
        return {}
    encoder = model.needed_text_encoder()
    found = {}
    if "clip_patches" in reads:
        norm = model.tower_norm
        assert norm is not None  # families without it do not offer the signal
        found["clip_patches"] = tuple(encoder.patches(rows, norm) for rows in features)
    if "clip_text" in reads:
        texts = [encoder.text(question) for question in batch.questions]
        found["clip_text"] = tuple(texts[row] for row in batch.owner)
    return found
