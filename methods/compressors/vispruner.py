"""VisPruner: keep what the class token looks at, and of the rest what is least like anything else."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...harness.contracts import ModelShape, Reduction, Stage, View
from ...harness.registry import compressor
from .. import parameters
from ..attention import SCORES
from ..ops import cosines


@compressor(
    "vispruner",
    places=("projector",),
    needs=("class_attention@-2|received_attention@-1", "features"),
    paper="arXiv 2412.01818",
    repository="Theia-4869/VisPruner",
    verified="wiring",
)
@dataclass(frozen=True)
class VisPruner:
    """Keep int(keep * important) tokens by class-token attention, and of the rest drop duplicates, eight a round.

    Paper: Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in VLMs, arXiv 2412.01818;
    authors' repository Theia-4869/VisPruner. `class_attention@-2` [batch, heads, patches] is averaged over heads,
    `features` [batch, patches, dim] are the projector's inputs. The rest stand in order of attention; a round compares
    those at even places with those at odd ones and drops the even ones most alike (cosine) to any odd one. The even
    ones that stay go on in order of likeness, the most alike first, in front of the odd ones. Kept tokens stay in
    raster order and positions are renumbered.

    Where the tower has no class token, the mean row of its last layer stands for that token's
    (`received_attention@-1`), as in the authors' SigLIP tower.

    Departs from the code: a list of odd length, or a last round that would drop more than half, makes the code fail;
    here the even places are one more, and a round drops half at most.
    """

    important: float = 0.5

    def __post_init__(self) -> None:
        parameters.number(self, "important", least=0, most=1)

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        return (Stage("projector", keep, reads=(shape.served(SCORES) or "", "features")),)

    def reduce(self, view: View, keep: int) -> Reduction:
        scores = view[SCORES].float().mean(1)
        order = scores.sort(dim=-1, descending=True, stable=True).indices
        best = int(keep * self.important)
        likeness = view.memo.once("likeness", lambda: cosines(view["features"]))
        rest = distinct(likeness, order[:, best:], keep - best)
        picks = torch.cat([order[:, :best], rest], 1).sort(dim=-1).values
        return Reduction.keep(picks, scores.shape[1], position="renumber")


def distinct(likeness: torch.Tensor, order: torch.Tensor, wanted: int) -> torch.Tensor:
    """Drop from `order` [batch, m], indices of points alike by [batch, n, n], until `wanted` are left that differ."""
    rows = torch.arange(len(order), device=order.device)[:, None, None]
    while wanted and order.shape[1] > wanted:
        even, odd = order[:, ::2], order[:, 1::2]
        drop = min(8, order.shape[1] - wanted, order.shape[1] // 2)
        alike = likeness[rows, even[:, :, None], odd[:, None]].amax(-1)
        stay = alike.sort(dim=-1, descending=True, stable=True).indices[:, drop:]
        order = torch.cat([even.gather(1, stay), odd], 1)
    return order[:, :wanted]
