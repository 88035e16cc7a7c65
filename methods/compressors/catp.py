"""CATP: keep visual tokens that stand for all others and go with the text: the first of its two stages."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ...harness.contracts import Reduction, View
from ...harness.registry import compressor
from ..ops import first_picks


@compressor(
    "catp",
    places=("projector",),
    needs=("text_embeddings",),
    paper="arXiv 2508.07871",
    verified="paper",
)
def catp(view: View, keep: int) -> Reduction:
    """Choose, greedily, the set that covers the picture best and is closest to the text.

    Paper: CATP: Contextually Adaptive Token Pruning for Efficient and Enhanced Multimodal In-Context Learning, arXiv
    2508.07871; no code was found, so this is written from the text alone. Likeness s is the cosine of `view.tokens`
    [batch, n, dim], scaled to [0, 1]; the text is the mean of `text_embeddings` [batch, t, dim] at the LLM's door. A
    set is worth the sum over all tokens of the likeness to the nearest in it, plus 0.7 times the sum over the set of
    the likeness to the text. Kept tokens stay in raster order and positions are renumbered, on which the paper is
    silent.

    Departs from the paper: stage 2 is left out. In the LLM it ranks the tokens of demonstrations by the query's
    attention, and then the query's own by what is left of the demonstrations; with one picture there are none.
    Cosines are scaled as (1 + cos) / 2, which the text does not say.
    """
    picks = first_picks(view, keep, lambda: cover(view.tokens, view["text_embeddings"]))
    return Reduction.keep(picks.sort(dim=-1).values, view.tokens.shape[1], position="renumber")


def cover(tokens: torch.Tensor, text: torch.Tensor) -> Iterator[torch.Tensor]:
    """Indices of [batch, n, dim] tokens, [batch] at a time, each of which adds most to what the set is worth."""
    unit = torch.nn.functional.normalize(tokens.float(), dim=-1)
    text = torch.nn.functional.normalize(text.float().mean(1), dim=-1)
    likeness, bonus = (1 + unit @ unit.mT) / 2, 0.7 * (1 + (unit @ text[..., None])[..., 0]) / 2
    rows, covered = torch.arange(len(unit), device=unit.device), torch.zeros_like(bonus)
    for _ in range(unit.shape[1]):
        yield (pick := ((likeness - covered[:, None]).clamp(min=0).sum(-1) + bonus).argmax(-1))
        bonus[rows, pick] = -torch.inf
        covered = torch.maximum(covered, likeness[rows, pick])
