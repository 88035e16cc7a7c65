"""CATP: keep visual tokens that stand for all others and go with the text: the first of its two stages."""

from __future__ import annotations

import torch

from ...harness.contracts import Reduction, View
from ...harness.registry import compressor


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
    unit = torch.nn.functional.normalize(view.tokens.float(), dim=-1)
    text = torch.nn.functional.normalize(view["text_embeddings"].float().mean(1), dim=-1)
    likeness, bonus = (1 + unit @ unit.mT) / 2, 0.7 * (1 + (unit @ text[..., None])[..., 0]) / 2
    size, n = bonus.shape
    rows = torch.arange(size, device=unit.device)
    covered, taken = torch.zeros_like(bonus), torch.zeros_like(bonus, dtype=torch.bool)
    picks = torch.zeros(size, keep, dtype=torch.long, device=unit.device)
    for step in range(keep):
        gain = (likeness - covered[:, None]).clamp(min=0).sum(-1) + bonus
        pick = gain.masked_fill(taken, -torch.inf).argmax(-1)
        picks[:, step], taken[rows, pick] = pick, True
        covered = torch.maximum(covered, likeness[rows, pick])
    return Reduction.keep(picks.sort(dim=-1).values, n, position="renumber")
