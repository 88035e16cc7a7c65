"""A floor: a smaller picture, the way to fewer tokens that needs no method at all."""

from __future__ import annotations

from dataclasses import dataclass

from ...harness.contracts import ModelShape, Reduction, Stage, View
from ...harness.registry import compressor
from ..ops import fit_grid


@compressor("downsample", places=("pixel",), budget_kind="at_most", floor=True, merges=True)
@dataclass(frozen=True)
class Downsample:
    """Encode the picture at the largest patch grid of at most `keep` tokens; position embeddings are interpolated.

    The vision tower gets cheaper too, unlike with any method that prunes behind it. A square picture stays square.
    Source: none; departs from nothing.
    """

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        grid = fit_grid(shape.grid, keep)
        return (Stage("pixel", grid[0] * grid[1], grid=grid),)

    def reduce(self, view: View, keep: int) -> Reduction:
        size, n, _ = view.tokens.shape
        return Reduction.identity(size, n)
