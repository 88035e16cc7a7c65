"""PruMerge+: PruMerge with an even sample of the picture beside the tokens that the class token looks at."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...harness.contracts import ModelShape, Reduction, Stage, View
from ...harness.registry import compressor
from ..attention import one_head, outliers
from ..counts import sampled, spacing_of, within
from ..ops import absorb_neighbours


@compressor(
    "prumerge_plus", places=("projector",), needs=("class_query@-1", "keys@-1"), budget_kind="at_most", merges=True,
    keeps_order=False, paper="arXiv 2403.15388", repository="42Shawn/LLaVA-PruMerge", verified="wiring",
)  # fmt: skip
@dataclass(frozen=True)
class PruMergePlus:
    """Keep tokens by class-token attention and every s-th of the raster; merge into each as PruMerge does.

    Paper: LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models, arXiv 2403.15388; authors'
    repository 42Shawn/LLaVA-PruMerge. Reads, rows and positions are those of `prumerge`; sampled tokens that attention
    has not picked follow the picked ones, in raster order. For a share r picked by attention s is int(int(1 / r) / 3),
    so that sampled tokens are about three times as many.

    `keep` counts all rows. The spacing is the closest that the authors' rule gives for any share whose tokens fit, and
    attention picks as many as then fit: what their code keeps for a share, is kept here for the count that it makes.
    With `adaptive`, theirs by default, the share is that of the outliers of attention, as in `prumerge`, and `keep` is
    only a limit (beyond it, the rule for counts holds).

    Departs from the code: a share of 0 or above a third, where it fails, samples nothing or everything.
    """

    adaptive: bool = False

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        return (Stage("projector", keep, features=True, reads=("class_query@-1", "keys@-1")),)

    def reduce(self, view: View, keep: int) -> Reduction:
        attention, keys = one_head(view)
        order = attention.sort(dim=-1, descending=True, stable=True).indices
        rank = order.argsort(-1)
        number, spacing = within(rank, keep - 1)
        if self.adaptive:
            n = attention.shape[1]
            found = outliers(attention)
            steps = torch.tensor([spacing_of(k / n) for k in found.tolist()], device=found.device)
            fits = (found + (sampled(n, steps) & (rank >= found[:, None])).sum(1)) < keep
            number, spacing = torch.where(fits, found, number), torch.where(fits, steps, spacing)
        return merge(attention, keys, rank, number, spacing)


def merge(
    attention: torch.Tensor, keys: torch.Tensor, rank: torch.Tensor, number: torch.Tensor, spacing: torch.Tensor
) -> Reduction:
    """Rows of the `number` best by attention, then of the other sampled tokens, then the extra one."""
    n = attention.shape[1]
    place = torch.arange(n, device=rank.device).expand_as(rank)
    behind = torch.where(sampled(n, spacing), n + place, 2 * n)
    behind = torch.where(rank < number[:, None], rank, behind)
    order = behind.sort(dim=-1, stable=True).indices
    return absorb_neighbours(attention, keys, order, (behind < 2 * n).sum(-1))
