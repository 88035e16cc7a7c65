"""TinyChart: merge the most similar pairs of patches in every layer of the vision tower, a fixed number in each."""

from __future__ import annotations

from dataclasses import dataclass

from ...harness.contracts import ModelShape, Reduction, Stage, View
from ...harness.registry import compressor
from ..pairs import even_merges, merge_pairs, merge_stages


@compressor(
    "tinychart",
    places=("encoder",),
    needs=("keys",),
    merges=True,
    keeps_order=False,
    paper="arXiv 2404.16635",
    repository="X-PLUG/mPLUG-DocOwl",
    verified="selection",
)
@dataclass(frozen=True)
class TinyChart:
    """Bipartite soft matching (ToMe) without a class token, the same number of merges in every layer.

    Paper: TinyChart: Efficient Chart Understanding with Visual Token Merging and Program-of-Thoughts Learning,
    arXiv 2404.16635; authors' repository X-PLUG/mPLUG-DocOwl (TinyChart). `view.tokens` is [batch, n, dim]; similarity
    is the cosine of `keys` [batch, heads, n, d] averaged over heads; merged tokens are means weighted by size, and
    later layers attend in proportion to size. Tokens leave in the authors' order: unmerged even places from the most
    to the least similar, then odd places.

    Departs from the code: the authors merge 84 of 2,916 tokens in each of 26 layers of a SigLIP tower at 768 pixels,
    and trained with that; here the number follows from `keep` (the smallest that gets there, and the last merging layer
    merges what is missing), without training. A tower with a class token keeps it in front, unmerged.
    """

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        return merge_stages(keep, shape, even_merges(shape))

    def reduce(self, view: View, keep: int) -> Reduction:
        return merge_pairs(view, keep)
