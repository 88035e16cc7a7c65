"""AIM: merge alike visual tokens in front of the LLM, then let PageRank over its attention thin them out to nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...harness.contracts import ModelShape, Reduction, Stage, View
from ...harness.registry import compressor
from .. import parameters
from ..attention import page_rank, standing
from ..ops import best
from ..pairs import merge_rounds


@compressor(
    "aim",
    places=("projector", "decoder"),
    needs=("prompt_queries", "prompt_keys", "places"),
    merges=True,
    keeps_order=False,
    paper="arXiv 2412.03248",
    repository="LaVi-Lab/AIM",
    verified="wiring",
)
@dataclass(frozen=True)
class Aim:
    """Merge the most similar pairs of each picture, round by round; in eight LLM layers keep the best by PageRank.

    Paper: AIM: Adaptive Inference of Multi-Modal LLMs via Token Merging and Pruning, arXiv 2412.03248; authors'
    repository LaVi-Lab/AIM. A round is bipartite soft matching on the tokens themselves [batch, n, dim], with plain
    means, and at most halves them; rounds follow until `keep` tokens are left, which the authors' quarter is in two.
    Merged tokens are not in raster order. Behind LLM layers 14 to 21 of 28 (scaled) 7/8, 6/8 ... 0 of those are left:
    the best by PageRank on that layer's attention between all tokens of the prompt, text included, which always stays.
    For it `prompt_queries` and `prompt_keys` [batch, heads, length, d] are read, and the visual tokens' `places`
    [batch, n] in them. All pictures of a prompt are ranked together; positions are kept.

    `keep` is what enters the LLM, since nothing is left behind the last cut: a budget after the cut says nothing here,
    and a mean over layers cannot exceed what unmerged tokens come to. `prune=False` merges only; `layers` names the
    eight LLM layers that are the first to see fewer tokens.

    Departs from the code: it masks what it drops, which saves no work; here it is removed unless `mask` is on. The
    first ranking is the same. In later ones masked tokens, though seen by none, still hand the share that they start
    with on to those that they see; removed ones are gone, and kept sets may differ (in the authors' model with 64
    tokens by 1 of 48 at the second cut, where twelve ranks are zero; by none with 16). The code's new tokens lose their
    positions from the second decoding step on (a mask is overwritten), which is not reproduced.
    """

    prune: bool = True
    mask: bool = False
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        parameters.truth(self, "prune", "mask")
        parameters.layers(self, count=8)

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        keep = max(keep, 1)
        reads = ("prompt_queries", "prompt_keys", "places", *(["visible"] if self.mask else []))
        layers = self.layers or [shape.scale(layer, of=28) for layer in range(15, 23)]
        left = {layer: keep * (7 - cut) // 8 for cut, layer in enumerate(layers) if self.prune}
        cuts = [Stage("decoder", n, i, reads, joint=True, masks=self.mask) for i, n in left.items()]
        return (Stage("projector", keep), *cuts)

    def reduce(self, view: View, keep: int) -> Reduction:
        if view.place == "projector":
            return merge_rounds(view.tokens, keep)
        n = view.tokens.shape[1]
        if keep == 0:
            return Reduction.keep(torch.zeros_like(view.tokens[..., 0], dtype=torch.bool), n)
        visible, places = view.signals.get("visible"), view["places"]
        rank = page_rank(view["prompt_queries"], view["prompt_keys"], visible)
        return Reduction.keep(best(-standing(rank, places, visible), keep), n, position="keep")
