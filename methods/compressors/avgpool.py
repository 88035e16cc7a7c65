"""A floor: neighbouring tokens averaged, the simplest way to merge."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...harness.contracts import ModelShape, Reduction, Stage, View
from ...harness.registry import compressor
from ..ops import fit_grid


@compressor("avgpool", places=("projector",), budget_kind="at_most", floor=True, merges=True)
@dataclass(frozen=True)
class AvgPool:
    """Average the grid of visual tokens down to the largest grid of its shape within the budget.

    Windows are those of adaptive average pooling: where the sides do not divide, neighbours share a row or a column.
    `view.tokens` is [batch, rows * columns, dim]; positions are renumbered. Source: none; departs from nothing.
    """

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        rows, columns = fit_grid(shape.grid, keep)
        return (Stage("projector", rows * columns),)

    def reduce(self, view: View, keep: int) -> Reduction:
        size, n, _ = view.tokens.shape
        device = view.tokens.device
        # Pooling the pictures of every single token gives the weight that each token has in each window.
        singles = torch.eye(n, device=device).view(n, 1, *view.grid)
        pooled = torch.nn.functional.adaptive_avg_pool2d(singles, fit_grid(view.grid, keep)).reshape(n, -1).T
        weights = pooled.expand(size, *pooled.shape)
        batch, row, source = weights.nonzero(as_tuple=True)
        counts = torch.full((size,), pooled.shape[0], dtype=torch.long)
        weight, anchor = weights[batch, row, source], weights.argmax(-1)
        return Reduction(n, counts, batch, row, source, weight, anchor, position="renumber")
