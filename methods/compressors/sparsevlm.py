"""SparseVLM: words that matter to the picture rate its tokens in three LLM layers; some of the rest are merged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ...harness.contracts import ModelShape, Reduction, Stage, View
from ...harness.registry import compressor
from .. import parameters
from ..attention import find_raters, rate, rotated_ones
from ..clustering import recycle
from ..counts import keep_whole
from ..ops import best

TABLES = {
    1: ((0, 0, 0), (82, 32, 18), (249, 55, 27), (312, 117, 39), (309, 204, 113), (576, 576, 576)),
    2: ((0, 0, 0), (66, 34, 20), (246, 54, 28), (238, 108, 60), (300, 200, 118), (576, 576, 576)),
}
"""Of 576 tokens, how many are left (merged ones included) behind each cut: nothing, the authors' four rows, all."""


@compressor(
    "sparsevlm", places=("decoder",), needs=("text_attention", "entering", "text_embeddings", "keys"), merges=True,
    keeps_order=False, paper="arXiv 2410.04417", repository="Gumpest/SparseVLMs", verified="wiring",
)  # fmt: skip
@dataclass(frozen=True)
class SparseVLM:
    """Behind three LLM layers, keep the tokens that rater words attend to and merge the best of the others.

    Paper: SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference, arXiv 2410.04417;
    authors' repository Gumpest/SparseVLMs. Raters are the words behind the picture whose share of a softmax over words
    (inner products of `entering` [batch, m, dim] and `text_embeddings` [batch, t, dim], mean over visual tokens) is
    above the mean. A token's score is the raters' `text_attention` [batch, heads, t, n] in the layer that has just run,
    averaged over heads and raters. Of the tokens left out, the best 30% are clustered by density peaks into a tenth of
    their number, and cluster means follow the kept tokens; positions are renumbered. `layers` are the first that see
    fewer tokens: 3, 7 and 16 of 32, scaled, unless given.

    `version=2` is the released SparseVLM+: no merging, positions kept; attention is divided by the inner product of
    two rotated vectors of ones (which may be negative), and the `heads` heads of the largest sum are used. Its
    distances assume one picture with the text right behind it, and rotary embedding of base `theta`.

    `keep` counts all tokens behind the last cut. The authors' tables of 192, 128, 96 and 64 (their means over layers)
    are met at 113, 39, 27 and 18 of 576 (118, 60, 28 and 20 in version 2); other counts are interpolated.

    Departs from the code: those four budgets are the only ones there. A cut that has nothing to drop leaves all as it
    is, where the code moves one token to the end; fewer tokens than there would be clusters are clusters of all that is
    recycled; if no word is above the mean (a single word) all words are raters. Departs from the paper: its first
    version adapts the counts to the rank of the attention, which was not released.
    """

    version: int = 1
    layers: tuple[int, int, int] | None = None
    heads: int = 14
    theta: float = 10000.0

    def __post_init__(self) -> None:
        parameters.one_of(self, "version", *TABLES)
        parameters.layers(self, count=3)
        parameters.whole(self, "heads")
        parameters.above(self, "theta", least=1)

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        keep, table = max(keep, 1), np.array(TABLES[self.version])
        scale = shape.tokens / table[-1, -1]
        counts = [round(np.interp(keep / scale, table[:, -1], table[:, cut]) * scale) for cut in (0, 1)]
        layers = self.layers or tuple(shape.scale(layer, of=32) for layer in (3, 7, 16))
        left = dict(zip(layers, (max(counts[0], counts[1], keep), max(counts[1], keep), keep), strict=True))
        reads = ("text_attention", "entering", "text_embeddings") + (("keys",) if self.version == 2 else ())
        return tuple(Stage("decoder", count, layer=layer, reads=reads) for layer, count in left.items())

    def reduce(self, view: View, keep: int) -> Reduction:
        attention, raters = view["text_attention"].float(), find_raters(view["entering"], view["text_embeddings"])
        n = attention.shape[-1]
        if self.version == 1 and keep >= n:
            return Reduction.identity(len(attention), n)
        if self.version == 1:
            return recycle(view, rate(attention, raters), keep_whole(n, keep), keep)
        assert view.origin is not None
        distance = torch.arange(attention.shape[2], device=attention.device)[:, None] - view.origin[:, None]
        alike = rotated_ones(distance + view.grid[0] * view.grid[1], view["keys"].shape[-1], self.theta)
        scores = rate(attention / alike[:, None], raters, self.heads)
        return Reduction.keep(best(scores, keep), n, position="keep")
