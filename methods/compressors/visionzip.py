"""VisionZip: keep the tokens that the class token looks at, and merge the others into a few."""

from __future__ import annotations

from dataclasses import dataclass

from ...harness.contracts import ModelShape, Reduction, Stage, View
from ...harness.registry import compressor
from .. import parameters
from ..attention import dominant, looked_at, reads_of_tower
from ..ops import absorb, behind_class_token


@compressor(
    "visionzip",
    places=("projector",),
    needs=("class_token?", "class_attention@-2|received_attention@-1", "keys@-2|keys@-1"),
    merges=True,
    keeps_order=False,
    paper="arXiv 2412.04467",
    repository="dvlab-research/VisionZip",
    verified="wiring",
)
@dataclass(frozen=True)
class VisionZip:
    """Keep the class token and the patches it attends to most; spread targets over the rest, which absorb what is left.

    Paper: VisionZip: Longer is Better but Not Necessary in Vision Language Models, arXiv 2412.04467; authors'
    repository dvlab-research/VisionZip. The cut is in front of the projector: `view.tokens` are its inputs [batch,
    patches + 1, dim], the class token last. `class_attention@-2` [batch, heads, patches] is summed over heads,
    `keys@-2` [batch, heads, patches + 1, d] averaged over them. Order: the class token, dominant patches in raster
    order, contextual rows; positions are renumbered. A contextual row is a target plus the mean of those that join it,
    a sum of about twice the length of an average, as released.

    `keep` counts all rows, the class token among them, as the authors do. `contextual` is the share of it that is
    merged: 10 of 64, which makes the 20 of 128 and 30 of 192 of their tables.

    Where the LLM could be given no class token, patches alone are kept, behind the projector; and where there is none
    to look, by the mean row of the last layer (`received_attention@-1`) and its keys, as DUET-VLM's authors do it for
    Qwen2.5-VL.

    Departs from the code: nothing known at these counts; too few tokens for a contextual one leave dominant ones alone.
    """

    contextual: float = 10 / 64

    def __post_init__(self) -> None:
        parameters.share(self, "contextual")

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        return (Stage("projector", keep, features=shape.class_token, reads=reads_of_tower(shape)),)

    def reduce(self, view: View, keep: int) -> Reduction:
        contextual = max(0, min(round(keep * self.contextual), keep - 1))
        return behind_class_token(view, *absorb(*looked_at(view), dominant(view, keep, contextual), contextual))
