"""HiRED: keep what the class token looks at, and give every part of a picture a share by its salience."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...harness.contracts import ModelShape, Reduction, Stage, View
from ...harness.registry import compressor
from .. import parameters
from ..frames import sizes_of
from ..ops import best


@compressor(
    "hired",
    places=("projector",),
    needs=("class_attention",),
    budget_kind="at_most",
    paper="arXiv 2408.10945",
    repository="hasanar1f/HiRED",
    verified="wiring",
)
@dataclass(frozen=True)
class HiRED:
    """Keep the tokens with the highest attention of the class token; of several crops each gets its own number.

    Paper: HiRED: Attention-Guided Token Dropping for Efficient Inference of High-Resolution Vision-Language Models,
    arXiv 2408.10945; authors' repository hasanar1f/HiRED. `class_attention@L` is [batch, heads, patches], summed over
    heads: of the last but one layer (22 of 24) for the choice. Where a picture comes in crops, one view holds them all
    and `allocate` divides the count by the first layer's attention in the whole picture. Kept tokens stay in order and
    positions are renumbered.

    As released, the parts' shares count runs of tokens in raster order, not the quadrants of the paper, and rounding
    down leaves a few tokens of the count unused; a model of one crop per picture uses all of it.

    Departs from the code: the full count keeps everything. Several pictures in crops are divided as if they were one.
    """

    alpha: float = 0.5

    def __post_init__(self) -> None:
        parameters.number(self, "alpha", least=0, most=1)

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        if shape.crops:
            return (Stage("projector", keep, reads=("class_attention@-2", "class_attention@0"), joint=True),)
        return (Stage("projector", keep, reads=("class_attention@-2",)),)

    def reduce(self, view: View, keep: int) -> Reduction:
        scores = view["class_attention@-2"].float().sum(1)
        n, sizes = scores.shape[1], sizes_of(view)
        if len(sizes) == 1 or keep == n:
            return Reduction.keep(best(scores, keep), n, position="renumber")
        salience = view["class_attention@0"][..., : sizes[0]].float().sum(1)
        whole, shares = allocate(salience, sizes[1:], keep, self.alpha)
        parts, counts = [*torch.split(scores[:, sizes[0] :], sizes[1:], 1)], [*torch.split(shares, 1, 1)]
        if len(set(sizes[1:])) == 1:  # all in one call
            parts, counts = [torch.stack(parts, 1)], [shares[..., None]]
        marks = [best(part, count).flatten(1) for part, count in zip(parts, counts, strict=True)]
        return Reduction.keep(torch.cat([best(scores[:, : sizes[0]], whole), *marks], 1), n, position="renumber")


def allocate(salience: torch.Tensor, sizes: Sequence[int], total: int, alpha: float) -> tuple[int, torch.Tensor]:
    """How many tokens a picture as a whole keeps, and each of its parts, [batch, parts].

    The whole gets int(total * alpha). The parts share the rest by how many of the int(n * (1 - alpha)) most salient
    tokens of the whole fall into theirs of the equal runs that its raster is cut into; shares are rounded down.

    Args:
        salience: [batch, n] of the tokens of the whole picture.
        sizes: tokens of every part.
        total: what is to be left of the whole and all parts together.
    """
    n, parts = salience.shape[1], len(sizes)
    whole, salient = min(int(total * alpha), n), int(n * (1 - alpha))
    marks = torch.nn.functional.pad(best(salience, salient), (0, -n % parts))
    found = marks.view(len(marks), parts, -1).sum(-1) / max(salient, 1)
    shares = (found * min(total - whole, sum(sizes))).long()
    return whole, torch.minimum(shares, torch.tensor(sizes, device=shares.device))
