"""VisionDrop: compress by what picture tokens attend to among themselves, in front of the LLM and in three layers."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

from ...harness.contracts import ModelShape, Reduction, Stage, View
from ...harness.registry import compressor
from .. import parameters
from ..attention import dominant, looked_at
from ..ops import absorb, behind_class_token

POWERS = tuple(log(count / 576) / log(19 / 576) for count in (48, 35, 26, 19))
"""With a share s of the tokens behind the last cut, s ** power of them are left in the LLM's four parts."""


@compressor(
    "visiondrop",
    places=("projector", "decoder"),
    needs=("class_token", "class_attention@-2", "keys@-2", "next_visual_attention", "next_keys"),
    merges=True,
    keeps_order=False,
    paper="arXiv 2506.22283",
    repository="Ruixxxx/VisionDrop",
    verified="wiring",
)
@dataclass(frozen=True)
class VisionDrop:
    """Keep dominant tokens and merge the others into evenly spaced ones: as VisionZip, then again in LLM layers.

    Paper: Rethinking Visual Token Reduction in LVLMs under Cross-modal Misalignment, arXiv 2506.22283; authors'
    repository Ruixxxx/VisionDrop. In front of the projector the tokens are its inputs [batch, patches + 1, dim], ranked
    by `class_attention@-2` [batch, heads, patches] and alike by `keys@-2`; the class token counts as one and leaves
    first. Before each of `layers` (8, 16, 24 of 32, scaled, unless given) they are ranked by `next_visual_attention`
    [batch, heads, n], the coming layer's mean row of all visual queries, and alike by `next_keys`. Keys are averaged
    over heads. Dominant tokens come first, in order, then contextual ones: a target plus the mean of those that join
    it, whose norms grow with every cut, as released. Positions are renumbered.

    `keep` counts the tokens behind the last cut. Of 576 tokens the authors' 48, 35, 26 and 19 (32 on average) are met
    at 19; other counts follow a power of the share that is kept, so that all four end in all tokens. `contextual` is
    the share of every count that is merged; 0.135 makes the authors' 6, 5, 4 and 3.

    Departs from the code: budgets other than that one, as said. Departs from the paper: it argues against the class
    token's attention, which the released first stage ranks by; and as the LLM is causal, early tokens are favoured.
    """

    layers: tuple[int, int, int] | None = None
    contextual: float = 0.135

    def __post_init__(self) -> None:
        parameters.layers(self, count=3)
        parameters.share(self, "contextual")

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        share = max(keep, 1) / shape.tokens
        entering, *counts = (round(shape.tokens * share**power) for power in POWERS)
        layers = self.layers or tuple(shape.scale(layer, of=32) for layer in (8, 16, 24))
        door = ("class_token", "class_attention@-2", "keys@-2")
        inside = ("next_visual_attention", "next_keys")
        return (
            Stage("projector", entering, features=True, reads=door),
            *(
                Stage("decoder", count, layer, inside)
                for layer, count in dict(zip(layers, counts, strict=True)).items()
            ),
        )

    def reduce(self, view: View, keep: int) -> Reduction:
        contextual = round(keep * self.contextual)
        if view.place == "projector":
            contextual = min(contextual, keep - 1)
            return behind_class_token(view, *absorb(*looked_at(view), dominant(view, keep, contextual), contextual))
        scores, keys = view["next_visual_attention"].float().mean(1), view["next_keys"].float().mean(1)
        groups, weights, anchor = absorb(scores, keys, keep - contextual, contextual)
        return Reduction.merge(groups, weights, anchor=anchor, normalize=False, position="renumber")
