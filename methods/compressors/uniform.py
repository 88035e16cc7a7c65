"""A floor: an even sample of the picture, which sees everything at a lower resolution."""

from __future__ import annotations

import torch

from ...harness.contracts import Reduction, View
from ...harness.registry import compressor


@compressor("uniform", places=("projector",), floor=True)
def uniform(view: View, keep: int) -> Reduction:
    """Keep evenly spaced visual tokens of the raster: the middle of each of `keep` equal stretches.

    `view.tokens` is [batch, n, dim]; positions are renumbered. Source: none; departs from nothing.
    """
    size, n, _ = view.tokens.shape
    picks = (2 * torch.arange(keep, device=view.tokens.device) + 1) * n // (2 * max(keep, 1))
    return Reduction.keep(picks.expand(size, keep), n, position="renumber")
