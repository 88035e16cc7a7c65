"""The prompt as it enters the LLM: every cut in front of it, before and behind the projector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ..contracts import Stage
from ..schedule import Cut
from ..watching import Watch
from .calls import Calls
from .cutter import Seats, Span, reduce_span, settled, whole_span
from .data import SEPARATOR, Batch, Crop, Encoded
from .holding import hold

Embed = Callable[[torch.Tensor], torch.Tensor]
Place = Callable[[torch.Tensor, torch.Tensor, Sequence[Crop]], torch.Tensor]
Separate = Callable[[Sequence[Crop], Encoded], Sequence[torch.Tensor]]


def enter(
    batch: Batch,
    encoded: Encoded,
    cuts: Sequence[Cut],
    calls: Calls | None,
    *,
    placeholder: int,
    words: Embed,
    positions: Place,
    separators: Separate,
    watch: Watch,
) -> tuple[torch.Tensor, Span, Span, torch.Tensor, tuple[torch.Tensor, ...]]:
    """The prompt after all cuts in front of the LLM: ids [batch, length], the span of them, the one of the prompt
    before any cut, the visual tokens [tokens, dim] in the order of the placeholders, and what runs along with those of
    every image.

    Args:
        calls: of the compressor that the cuts belong to.
        placeholder: id of the token that a visual token takes the place of.
        words: text tokens' embeddings.
        positions, separators: see `VisionLanguageModel`.
        watch: is told which work is the projector's and which the method's.
    """
    valid = batch.attention_mask.bool()
    where = positions(batch.input_ids, valid, batch.crops)
    span = whole = whole_span(_visual(batch, placeholder), valid, where)
    behind = span.behind
    ids, features, along, projected = batch.input_ids, encoded.features, encoded.along, False
    if {"pixel", "encoder"} & {cut.stage.place for cut in cuts}:
        assert calls is not None
        with watch.phase("compressor"):
            slots = span.slots()
            left = [(row, places[: len(features[i])]) for i, (row, places) in enumerate(slots)]
            kept = {i: Seats(places, span.position[..., row, places]) for i, (row, places) in enumerate(left)}
            order, span = span.cut(kept, renumber=True)
            ids = ids.gather(1, order)
            if calls.grids != calls.full:
                smaller = [replace(crop, grid=grid) for crop, grid in zip(batch.crops, calls.grids, strict=True)]
                span = replace(span, position=positions(ids, span.valid, smaller))
    for cut in cuts:
        stage = cut.stage
        if stage.place == "projector":
            assert calls is not None
            if not stage.features and not projected:
                with watch.phase("vision"):
                    features, projected = _through(encoded, features), True
            with watch.phase("compressor"):
                classes = "class_token" in stage.reads
                tokens = (
                    _beside(features, encoded.class_rows if stage.features else encoded.class_tokens)
                    if classes
                    else features
                )
                signals = _signals(batch, encoded, stage, behind, words)
                width = tokens[0].shape[-1]
                if along:
                    tokens = tuple(torch.cat(pair, -1) for pair in zip(tokens, along, strict=True))
                order, span, reduced, _ = reduce_span(
                    span, cut, calls, tokens, signals, class_last=classes, width=width
                )
                ids, features = ids.gather(1, order), tuple(rows[:, :width] for rows in reduced)
                along = tuple(rows[:, width:] for rows in reduced) if along else ()
    if not projected:
        with watch.phase("vision"):
            features = _through(encoded, features)
    packed = _packed(batch, encoded, span, features, separators)
    for cut in cuts:
        if cut.stage.held:
            assert calls is not None
            span = hold(span, whole, calls, cut.stage.held)
    # A dropped placeholder that has become padding must not ask for a visual token.
    return ids.masked_fill(~span.valid, 0), settled(span), whole, packed, along


def _visual(batch: Batch, placeholder: int) -> torch.Tensor:
    """[batch, length] which image every slot of the full prompt belongs to, -1 for text."""
    on = batch.input_ids == placeholder
    visual = torch.full_like(batch.input_ids, -1)
    for row, order in enumerate(batch.order):
        visual[row, on[row]] = torch.where(order >= 0, order + batch.owner.index(row), order)
    return visual


def _packed(
    batch: Batch, encoded: Encoded, span: Span, features: Sequence[torch.Tensor], separators: Separate
) -> torch.Tensor:
    """The tokens of all images, and separators where they are left, in the order of their placeholders."""
    slots = span.visual[span.visual != -1]
    rows = [*features]
    if bool((slots == SEPARATOR).any()):
        left = (span.visual == SEPARATOR).any(1).tolist()
        own = separators(batch.crops, encoded)
        rows = [own[image] for image, row in enumerate(batch.owner) if left[row]] + rows
    tokens = torch.cat(rows)
    packed = torch.empty_like(tokens)
    packed[slots.argsort(stable=True)] = tokens  # separators have the smallest number
    return packed


def _through(encoded: Encoded, features: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return encoded.tokens if features is encoded.features else encoded.projected(features)


def _beside(features: Sequence[torch.Tensor], classes: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.cat(pair) for pair in zip(features, classes, strict=True))


def _signals(
    batch: Batch, encoded: Encoded, stage: Stage, behind: Sequence[int], words: Embed
) -> dict[str, Sequence[torch.Tensor]]:
    found: dict[str, Sequence[torch.Tensor]] = {}
    for name in stage.reads:
        if name == "features":
            found[name] = encoded.features
        elif name == "text_embeddings":
            length = batch.input_ids.shape[1]
            found[name] = [words(batch.input_ids[row, length - behind[row] :]) for row in batch.owner]
        elif name != "class_token":
            found[name] = encoded.signals[name]
    return found
