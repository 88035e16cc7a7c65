"""M3: average pooling in nested grids, each of which halves the sides of the one before."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...harness.contracts import ModelShape, Reduction, Stage, View
from ...harness.registry import compressor


@compressor(
    "m3",
    places=("projector",),
    budget_kind="at_most",
    merges=True,
    paper="arXiv 2405.17430",
    repository="mu-cai/matryoshka-mm",
    verified="paper",
)
@dataclass(frozen=True)
class M3:
    """Average equal blocks of the grid of visual tokens, behind the projector, down to a nested grid within the budget.

    Paper: Matryoshka Multimodal Models, arXiv 2405.17430; authors' repository mu-cai/matryoshka-mm. `view.tokens` is
    [batch, rows * columns, dim]. Grids halve while both sides are even, and the last is one token: 576, 144, 36, 9 and
    1 of 24 x 24, where `avgpool` also has grids whose windows overlap. Rows are in raster order; positions are
    renumbered.

    Departs from the paper: the authors train a model on all its grids, which makes these tokens worth more; on another
    model this is pooling alone. Their code also takes grids between, which are not nested.
    """

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        rows, columns = nested_grid(shape.grid, keep)
        return (Stage("projector", rows * columns),)

    def reduce(self, view: View, keep: int) -> Reduction:
        (rows, columns), (height, width) = view.grid, nested_grid(view.grid, keep)
        across = torch.arange(columns, device=view.tokens.device) // (columns // width)
        down = torch.arange(rows, device=view.tokens.device) // (rows // height)
        groups = (down[:, None] * width + across).flatten()
        return Reduction.merge(groups.expand(len(view.tokens), -1), position="renumber")


def nested_grid(grid: tuple[int, int], keep: int) -> tuple[int, int]:
    """The largest grid of at most `keep` cells that halving leads to; one cell where none is that small."""
    rows, columns = grid
    while rows * columns > keep:
        if rows % 2 or columns % 2:
            return 1, 1
        rows, columns = rows // 2, columns // 2
    return rows, columns
