"""ToDRE: from the token that the class token looks at most, keep the tokens that are least like those kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ...harness.contracts import ModelShape, Reduction, Stage, View
from ...harness.registry import compressor
from .. import parameters
from ..ops import cosines, first_picks


@compressor(
    "todre",
    places=("projector",),
    needs=("class_attention@-1",),
    paper="arXiv 2505.18757",
    verified="paper",
)
@dataclass(frozen=True)
class ToDRE:
    """Pick the token whose cosines to those picked sum to least, again and again: stage 1 of ToDRE.

    Paper: ToDRE: Effective Visual Token Pruning via Token Diversity and Task Relevance, arXiv 2505.18757 (version 2;
    version 1 had a greedy k-center here); no code was found, so this is written from the text alone. `view.tokens`
    [batch, n, dim] are those that enter the LLM. The first pick has the highest `class_attention@-1` [batch, heads,
    patches] of the last vision layer, averaged over heads; `pivot="random"` is the paper's for towers without a class
    token. Kept tokens stay in raster order and positions are renumbered, on which the paper is silent.

    Departs from the paper: of several pictures or frames each is pruned by itself. Stage 2 is left out: behind seven
    eighths of the LLM it drops all visual tokens at once where two shares of attention fall below a threshold, and the
    text does not settle which queries and keys they sum over.
    """

    pivot: str = "class"

    def __post_init__(self) -> None:
        parameters.one_of(self, "pivot", "class", "random")

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        return (Stage("projector", keep, reads=("class_attention@-1",) if self.pivot == "class" else ()),)

    def reduce(self, view: View, keep: int) -> Reduction:
        n = view.tokens.shape[1]
        scores = view["class_attention@-1"].float().mean(1) if self.pivot == "class" else view.noise(n)
        picks = first_picks(view, keep, lambda: unlike(view.tokens, scores.argmax(-1)))
        return Reduction.keep(picks.sort(dim=-1).values, n, position="renumber")


def unlike(points: torch.Tensor, first: torch.Tensor) -> Iterator[torch.Tensor]:
    """`first` [batch] and then, one by one, the points of [batch, n, dim] that are least like all those before."""
    likeness, pick = cosines(points), first
    rows, total = torch.arange(len(points), device=points.device), torch.zeros_like(likeness[:, 0])
    for _ in range(points.shape[1]):
        yield pick
        total = total + likeness[rows, pick]
        total[rows, pick] = torch.inf
        pick = total.argmin(-1)
