"""PyramidDrop: drop visual tokens in several LLM layers, ever more of them."""

from __future__ import annotations

from dataclasses import dataclass

from ...harness.contracts import ModelShape, Reduction, Stage, View
from ...harness.registry import compressor
from .. import parameters
from ..ops import best


@compressor(
    "pyramiddrop",
    places=("decoder",),
    needs=("next_last_attention",),
    paper="arXiv 2410.17247",
    repository="Cooperx521/PyramidDrop",
    verified="wiring",
)
@dataclass(frozen=True)
class PyramidDrop:
    """Before each of `layers`, keep the visual tokens that the last prompt token would look at most in that layer.

    Paper: PyramidDrop, Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy Reduction, arXiv
    2410.17247; authors' repository Cooperx521/PyramidDrop. `next_last_attention` is [batch, heads, n], averaged over
    heads: the coming layer's own norm and projections on the hidden states that enter it, before the cut. Kept tokens
    stay in order, and the prompt closes up behind them (positions are renumbered).

    `layers` are 8, 16 and 24 of 32, scaled to other depths, unless given. Every cut keeps the same share of what the
    cut before it left, as in the paper; the authors' share is one half, so that their `keep` is an eighth of the
    tokens. Counts are rounded down, as theirs.

    Departs from the code: shares other than one half follow from `keep` and are not set one by one. Where layers of a
    shallow model coincide, the last cut of each layer is made. Where a prompt holds several pictures each is cut by
    itself.
    """

    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        parameters.layers(self)

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        layers = self.layers or tuple(shape.scale(layer, of=32) for layer in (8, 16, 24))
        cuts, full = len(layers), shape.tokens
        share = 0.5 if full // 2**cuts == keep else (keep / full) ** (1 / cuts)
        # 1e-6: a root must not make 288 tokens 287.9999
        counts = {layer: int(full * share**cut + 1e-6) for cut, layer in enumerate(layers, 1)}
        return tuple(
            Stage("decoder", count, layer=layer, reads=("next_last_attention",)) for layer, count in counts.items()
        )

    def reduce(self, view: View, keep: int) -> Reduction:
        scores = view["next_last_attention"].mean(1)
        return Reduction.keep(best(scores, keep), scores.shape[1], position="renumber")
