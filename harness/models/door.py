"""The prompt as it enters the LLM: every cut in front of it, before and behind the projector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ..contracts import Stage
from ..schedule import Cut
from .calls import Calls, Grid
from .cutter import Span, reduce_span, settled, whole_span
from .data import Batch, Encoded
from .holding import hold

Embed = Callable[[torch.Tensor], torch.Tensor]
Place = Callable[[torch.Tensor, torch.Tensor, Sequence[Grid]], torch.Tensor]


def enter(
    batch: Batch,
    encoded: Encoded,
    cuts: Sequence[Cut],
    calls: Calls | None,
    *,
    placeholder: int,
    words: Embed,
    positions: Place,
) -> tuple[torch.Tensor, Span, Span, tuple[torch.Tensor, ...]]:
    """The prompt after all cuts in front of the LLM: ids [batch, length], the span of them, the one of the prompt
    before any cut, and the visual tokens of every image.

    Args:
        calls: of the compressor that the cuts belong to.
        placeholder: id of the token that a visual token takes the place of.
        words: text tokens' embeddings.
        positions: see `VisionLanguageModel.positions`.
    """
    valid = batch.attention_mask.bool()
    where = positions(batch.input_ids, valid, [crop.grid for crop in batch.crops])
    span = whole = whole_span(_visual(batch, placeholder), valid, where)
    behind = span.behind
    ids, features, projected = batch.input_ids, encoded.features, False
    if {"pixel", "encoder"} & {cut.stage.place for cut in cuts}:
        assert calls is not None
        slots = span.slots()
        kept = {i: span.position[..., row, places[: len(features[i])]] for i, (row, places) in enumerate(slots)}
        order, span = span.cut(kept, renumber=True)
        ids = ids.gather(1, order)
        if calls.grids != calls.full:
            span = replace(span, position=positions(ids, span.valid, calls.grids))
    for cut in cuts:
        stage = cut.stage
        if stage.place == "projector":
            assert calls is not None
            if not stage.features and not projected:
                features, projected = _through(encoded, features), True
            classes = "class_token" in stage.reads
            tokens = (
                _beside(features, encoded.class_rows if stage.features else encoded.class_tokens)
                if classes
                else features
            )
            signals = _signals(batch, encoded, stage, behind, words)
            order, span, reduced = reduce_span(span, cut, calls, tokens, signals, class_last=classes)
            ids, features = ids.gather(1, order), tuple(reduced)
    if not projected:
        features = _through(encoded, features)
    for cut in cuts:
        if cut.stage.held:
            assert calls is not None
            span = hold(span, whole, calls, cut.stage.held)
    # A dropped placeholder that has become padding must not ask for a visual token.
    return ids.masked_fill(~span.valid, 0), settled(span), whole, features


def _visual(batch: Batch, placeholder: int) -> torch.Tensor:
    """[batch, length] which image every slot of the full prompt belongs to, -1 for text."""
    on = batch.input_ids == placeholder
    visual = torch.full_like(batch.input_ids, -1)
    for row in range(len(batch.sample_ids)):
        images = batch.images_of(row)
        counts = torch.tensor([batch.crops[i].tokens for i in images])
        visual[row, on[row]] = torch.tensor(images).repeat_interleave(counts).to(visual.device)
    return visual


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
