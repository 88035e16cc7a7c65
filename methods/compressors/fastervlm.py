"""FasterVLM: keep the visual tokens that the vision tower's class token looks at most."""

from __future__ import annotations

import torch

from ...harness.contracts import Reduction, View
from ...harness.registry import compressor
from ..ops import best


@compressor(
    "fastervlm",
    places=("projector",),
    needs=("class_attention@-2",),
    paper="arXiv 2412.01818",
    repository="Theia-4869/FasterVLM",
    verified="wiring",
)
def fastervlm(view: View, keep: int) -> Reduction:
    """Keep the tokens with the highest attention of the class token, averaged over heads, in raster order.

    Paper: [CLS] Attention is All You Need for Training-Free Visual Token Pruning, arXiv 2412.01818 (version 1; version
    2 is VisPruner); authors' repository Theia-4869/FasterVLM. `class_attention@-2` is [batch, heads, patches], of the
    last but one vision layer, whose output LLaVA's projector reads. The projector runs on every patch and the prompt
    closes up behind the kept ones (positions are renumbered).

    Departs from the code: nothing known. A tower without a class token has no such signal, and the method is refused.
    """
    marks = best(view["class_attention@-2"].sum(1, dtype=torch.float32), keep)  # sums rank as means do
    return Reduction.keep(marks, marks.shape[1], position="renumber")
