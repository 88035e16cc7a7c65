"""CDPruner: keep visual tokens that differ from each other, with regard to the question."""

from __future__ import annotations

import torch

from ...harness.contracts import Reduction, View
from ...harness.registry import compressor
from ..ops import cosines, dpp_map, first_picks


@compressor(
    "cdpruner",
    places=("projector",),
    needs=("clip_patches", "clip_text"),
    paper="arXiv 2506.10967",
    repository="Theia-4869/CDPruner",
    verified="wiring",
)
def cdpruner(view: View, keep: int) -> Reduction:
    """Choose the likeliest set of a determinantal point process whose kernel is likeness times relevance, greedily.

    Paper: Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs, arXiv
    2506.10967; authors' repository Theia-4869/CDPruner. Likeness is the cosine of `view.tokens` [batch, n, dim], behind
    the projector. Relevance is the cosine of `clip_patches` [batch, n, d] and `clip_text` [batch, segments, d] (the
    question in CLIP's space, 77 tokens a segment), averaged over segments, negated as released, and scaled to [0, 1]
    within the image. Kept tokens stay in raster order and positions are renumbered.

    Departs from the code: relevance is scaled within each image, not over the batch (the authors run batches of one);
    where tokens span fewer dimensions than are to be kept, the code ends in NaN, and here the most relevant of the rest
    follow. Computed in float32 whatever the model's type.
    """
    picks = first_picks(view, keep, lambda: dpp_map(kernel(view)))
    return Reduction.keep(picks.sort(dim=-1).values, view.tokens.shape[1], position="renumber")


def kernel(view: View) -> torch.Tensor:
    """Likeness of tokens times the relevance of both, [batch, n, n]."""
    patches, text = (torch.nn.functional.normalize(view[s].float(), dim=-1) for s in ("clip_patches", "clip_text"))
    score = -(patches @ text.mT).mean(-1)
    low, high = score.amin(1, keepdim=True), score.amax(1, keepdim=True)
    relevance = (score - low + 1e-6) / (high - low).clamp(min=1e-6)
    return relevance[:, :, None] * cosines(view.tokens) * relevance[:, None]
