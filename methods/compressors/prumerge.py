"""PruMerge: keep the tokens that the class token looks at, and merge into each the tokens that are like it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...harness.contracts import ModelShape, Reduction, Stage, View
from ...harness.registry import compressor
from ..attention import one_head, outliers
from ..ops import absorb_neighbours


@compressor(
    "prumerge",
    places=("projector",),
    needs=("class_query@-1", "keys@-1"),
    budget_kind="at_most",
    merges=True,
    keeps_order=False,
    paper="arXiv 2403.15388",
    repository="42Shawn/LLaVA-PruMerge",
    verified="wiring",
)
@dataclass(frozen=True)
class PruMerge:
    """Keep tokens by class-token attention; each takes in its 32 nearest, and one more row takes in the rest.

    Paper: LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models, arXiv 2403.15388; authors'
    repository 42Shawn/LLaVA-PruMerge. The cut is in front of the projector: `view.tokens` are its inputs [batch,
    patches, dim]. `class_query@-1` [batch, heads, d] and `keys@-1` [batch, heads, patches + 1, d] are those of the last
    vision layer, all heads taken as one. Rows are in order of attention, the extra row last; positions are renumbered.

    `keep` counts the extra row, so that the authors' int(patches * ratio) is one less. With `adaptive`, theirs by
    default, the count is that of the outliers of attention (above the third quartile by 1.5 interquartile ranges), and
    `keep` is only its limit.

    Departs from the paper as the code does: neighbours of several kept tokens overlap and may themselves be kept,
    weights are not normalised, and the extra row is added. The authors' scores are those of a fine-tuned model.
    """

    adaptive: bool = False

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        return (Stage("projector", keep, features=True, reads=("class_query@-1", "keys@-1")),)

    def reduce(self, view: View, keep: int) -> Reduction:
        attention, keys = one_head(view)
        counts = torch.full_like(attention[:, 0], keep - 1, dtype=torch.long)
        if self.adaptive:
            counts = outliers(attention).clamp(max=keep - 1)
        order = attention.sort(dim=-1, descending=True, stable=True).indices
        return absorb_neighbours(attention, keys, order, counts)
