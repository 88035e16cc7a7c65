"""A floor: whatever a method claims to know must beat knowing nothing."""

from __future__ import annotations

from ...harness.contracts import Reduction, View
from ...harness.registry import compressor
from ..ops import best


@compressor("random", places=("projector",), floor=True, stochastic=True)
def random(view: View, keep: int) -> Reduction:
    """Keep a uniformly random set of visual tokens, in raster order.

    `view.tokens` is [batch, n, dim]. The set depends on the seed, the sample and the picture alone; the prompt closes
    up behind it (positions are renumbered). Source: none; departs from nothing.
    """
    n = view.tokens.shape[1]
    return Reduction.keep(best(view.noise(n), keep), n, position="renumber")
