"""FastV: after the first LLM layers, drop the visual tokens that the prompt hardly looks at."""

from __future__ import annotations

from dataclasses import dataclass

from ...harness.contracts import ModelShape, Reduction, Stage, View
from ...harness.registry import compressor
from .. import parameters
from ..ops import best


@compressor(
    "fastv",
    places=("decoder",),
    needs=("last_attention",),
    paper="arXiv 2403.06764",
    repository="pkunlp-icler/FastV",
    verified="wiring",
)
@dataclass(frozen=True)
class FastV:
    """Keep the visual tokens with the highest attention from the last prompt token in LLM layer `layer` - 1.

    Paper: An Image is Worth 1/2 Tokens After Layer 2, arXiv 2403.06764; authors' repository pkunlp-icler/FastV.
    `last_attention` is [batch, heads, n], averaged over heads; kept tokens stay in order and keep their positions.
    Layers below `layer` compute and cache every token. The selection is made once, at prefill.

    Departs from the paper: nothing known. `layer` is 2 of 32 layers, scaled to other depths, unless given. Where a
    prompt holds several pictures each keeps `keep` of its own tokens, while the authors know one picture only.
    """

    layer: int | None = None

    def __post_init__(self) -> None:
        parameters.whole(self, "layer")

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        layer = shape.scale(2, of=32) if self.layer is None else self.layer
        return (Stage("decoder", keep, layer=layer, reads=("last_attention",)),)

    def reduce(self, view: View, keep: int) -> Reduction:
        scores = view["last_attention"].mean(1)
        return Reduction.keep(best(scores, keep), scores.shape[1], position="keep")
