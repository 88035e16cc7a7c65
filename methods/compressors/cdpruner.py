"""CDPruner: keep visual tokens that differ from each other, with regard to the question."""

from __future__ import annotations

import torch

from ...harness.contracts import Reduction, View
from ...harness.registry import compressor
from ..ops import dpp_map


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
    unit, patches, text = (
        torch.nn.functional.normalize(t.float(), dim=-1) for t in (view.tokens, view["clip_patches"], view["clip_text"])
    )
    score = -(patches @ text.mT).mean(-1)
    low, high = score.amin(1, keepdim=True), score.amax(1, keepdim=True)
    relevance = (score - low + 1e-6) / (high - low).clamp(min=1e-6)
    kernel = relevance[:, :, None] * (unit @ unit.mT) * relevance[:, None]
    return Reduction.keep(dpp_map(kernel, keep).sort(dim=-1).values, unit.shape[1], position="renumber")
