"""AuroraCap: merge the most similar pairs of tokens in every layer of the vision tower, sizes not weighed in."""

from __future__ import annotations

from dataclasses import dataclass

from ...harness.contracts import ModelShape, Reduction, Stage, View
from ...harness.registry import compressor
from ..pairs import even_merges, merge_pairs, merge_stages


@compressor(
    "auroracap",
    places=("encoder",),
    needs=("keys",),
    merges=True,
    keeps_order=False,
    paper="arXiv 2410.03051",
    repository="rese1f/aurora",
    verified="selection",
)
@dataclass(frozen=True)
class AuroraCap:
    """Bipartite soft matching (ToMe), equally many merges in every layer, without attention in proportion to size.

    Paper: AuroraCap: Efficient, Performant Video Detailed Captioning and a New Benchmark, arXiv 2410.03051; authors'
    repository rese1f/aurora. `view.tokens` is [batch, n, dim] with the class token in front, which never merges;
    similarity is the cosine of `keys` [batch, heads, n, d] averaged over heads; merged tokens are means weighted by
    size. The released code adds log(size) to whole rows of queries, where a softmax over keys cannot see it;
    `proportional=True` adds it to the keys, as the ToMe of the paper does.

    Departs from the code: its `visual_token_merge_ratio` p merges int(patches (1 - p) / layers) tokens in every layer,
    the last one included, which the LLM never sees, so that more than p of the tokens arrive (388 of 729 for 0.5); here
    the number follows from `keep` (the smallest that gets there, and the last merging layer merges what is missing).
    All frames of a clip are merged alike; the slow-fast mode, whose first frame is whole, is left out.
    """

    proportional: bool = False

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        return merge_stages(keep, shape, even_merges(shape), proportional=self.proportional)

    def reduce(self, view: View, keep: int) -> Reduction:
        return merge_pairs(view, keep)
