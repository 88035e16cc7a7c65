"""HiPrune: keep what the middle of the vision tower looks at, its neighbours, and what the deep layers look at."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...harness.contracts import ModelShape, Reduction, Stage, View
from ...harness.registry import compressor
from .. import parameters
from ..ops import best, top


@compressor(
    "hiprune",
    places=("projector",),
    needs=("received_attention",),
    paper="arXiv 2508.00553",
    repository="Danielement321/HiPrune",
    verified="wiring",
)
@dataclass(frozen=True)
class HiPrune:
    """Keep anchors of the object layer with the four tokens around each, and fill up with registers of the deep layer.

    Paper: HiPrune: Training-Free Visual Token Pruning via Hierarchical Attention, arXiv 2508.00553; authors' repository
    Danielement321/HiPrune. `received_attention@L` is [batch, heads, patches], the mean row of all queries, averaged
    over heads: of the object layer (`object_layer`, counted from 1, is 9 of 24, scaled to other depths, unless given)
    and of the last but one. Anchors are the round(keep * alpha / 5) best of the first; registers are the best of the
    second that are neither anchors nor buffers. Kept tokens stay in raster order and positions are renumbered.

    As released, a buffer may wrap around the end of a row, and those off the grid fall on the first or last token.

    Departs from the code: where anchors and buffers are more than `keep` (a large `alpha`), anchors stay first and then
    buffers, the best of the deep layer before others; the code fails. Qwen models of theirs read the last layer and
    keep positions; here every family is treated as LLaVA.
    """

    alpha: float = 0.1
    object_layer: int | None = None

    def __post_init__(self) -> None:
        parameters.number(self, "alpha", least=0, most=1)
        parameters.whole(self, "object_layer")

    def _object(self, shape: ModelShape | None) -> str:
        """The signal of the object layer."""
        layer = self.object_layer
        if layer is None:
            assert shape is not None
            layer = shape.scale(9, of=24, vision=True)
        return f"received_attention@{layer - 1}"

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        return (Stage("projector", keep, reads=(self._object(shape), "received_attention@-2")),)

    def reduce(self, view: View, keep: int) -> Reduction:
        objects = view[self._object(view.shape)].float().mean(1)
        deep = view["received_attention@-2"].float().mean(1)
        n, width = deep.shape[1], view.grid[1]
        anchors = top(objects, round(keep * self.alpha / 5))
        buffers = anchors[..., None] + torch.tensor([-1, 1, -width, width], device=deep.device)
        rank = torch.zeros_like(deep).scatter_(1, buffers.flatten(1).clamp(0, n - 1), 1.0).scatter_(1, anchors, 2.0)
        marks = best(deep + rank * (deep.amax(1, keepdim=True) + 1), keep)
        return Reduction.keep(marks, n, position="renumber")
