"""Oracle: keep the patches that hold the answer's evidence, which no method can know."""

from __future__ import annotations

import torch

from ...harness.contracts import Reduction, View
from ...harness.registry import compressor
from ..ops import best


@compressor("oracle", places=("projector",), needs=("evidence",), diagnostic=True)
def oracle(view: View, keep: int, *, keep_positions: bool = False) -> Reduction:
    """Keep the patches that hold most evidence, then others spread evenly over the picture.

    Diagnostic: it reads `evidence` [batch, patches], where the answer lies, and so shows what is lost to the choice of
    tokens and what to their number. Only for samples that name their evidence; never ranked. Kept tokens stay in
    raster order; the prompt closes up behind them, as it does with most methods, unless with `keep_positions`. It
    departs from no paper, being ours.
    """
    covered = view["evidence"]
    # Multiples of the golden ratio, modulo one, fill an interval evenly however early one stops.
    spread = torch.arange(covered.shape[1], device=covered.device) * 0.6180339887 % 1
    scores = torch.where(covered > 0, 1 + covered, spread.expand_as(covered))
    return Reduction.keep(best(scores, keep), covered.shape[1], position="keep" if keep_positions else "renumber")
