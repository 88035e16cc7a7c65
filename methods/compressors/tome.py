"""ToMe: merge alike tokens inside the vision tower, a few in every layer."""

from __future__ import annotations

from dataclasses import dataclass

from ...harness.contracts import ModelShape, Reduction, Stage, View
from ...harness.registry import compressor
from .. import parameters
from ..pairs import even_merges, merge_pairs, merge_stages


@compressor(
    "tome",
    places=("encoder",),
    needs=("keys",),
    merges=True,
    keeps_order=False,
    paper="arXiv 2210.09461",
    repository="facebookresearch/ToMe",
    verified="selection",
)
@dataclass(frozen=True)
class ToMe:
    """Merge the most similar pairs of tokens between attention and MLP of every vision layer.

    Paper: Token Merging: Your ViT But Faster, arXiv 2210.09461; authors' repository facebookresearch/ToMe.
    `view.tokens` is [batch, n, dim] with the class token in front, which never merges; similarity is the cosine of
    `keys` [batch, heads, n, d] averaged over heads; merged tokens are means weighted by size, and later layers attend
    in proportion to size. Tokens leave in the authors' order (unmerged even places, then odd places).

    Departs from the paper: `keep` is the count that reaches the LLM. The same number merges in every layer (with
    `inflect` a linear ramp, -1 merges most in the first layers) up to the layer that the LLM's features come from, as
    the rest is unused; it is the smallest number that gets there, and the last merging layer merges what is missing.
    No layer merges more than half of its tokens, so that a shallow tower cannot go below a certain count.
    """

    inflect: float = 0.0

    def __post_init__(self) -> None:
        parameters.number(self, "inflect", least=-1, most=1)

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        return merge_stages(keep, shape, even_merges(shape, self.inflect))

    def reduce(self, view: View, keep: int) -> Reduction:
        return merge_pairs(view, keep)
