"""DUET-VLM: merge in front of the projector as VisionZip does, then drop in the LLM what the question passes over."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from ...harness.contracts import ModelShape, Reduction, Stage, View
from ...harness.registry import compressor
from .. import parameters
from ..attention import dominant, looked_at, reads_of_tower
from ..ops import absorb, behind_class_token, best


@compressor(
    "duet_vlm",
    places=("projector", "decoder"),
    needs=("class_token?", "class_attention@-2|received_attention@-1", "keys@-2|keys@-1", "next_text_attention"),
    merges=True,
    keeps_order=False,
    paper="arXiv 2602.18846",
    repository="AMD-AGI/DUET-VLM",
    verified="wiring",
)
@dataclass(frozen=True)
class DuetVLM:
    """Keep dominant patches and a few that absorb the next best; between LLM layers keep what all text looks at.

    Paper: DUET-VLM: Dual stage Unified Efficient Token reduction for VLM Training and Inference, arXiv 2602.18846;
    authors' repository AMD-AGI/DUET-VLM. In front of the projector it reads what `visionzip` reads, and differs in one
    thing: only the `width` times `contextual` best of the other patches take part, targets stand evenly in their order
    of attention, and the rest is dropped. Before each of `layers` it keeps `shares` of the count that entered the LLM,
    rounded down, by `next_text_attention` [batch, heads, t, n]: the rows of all text behind the pictures in the coming
    layer, averaged. Positions are renumbered at every cut.

    `keep` is the count that enters the LLM, the class token in it; `contextual` is the share of it that is merged: 7 of
    307, as the authors' script for LLaVA has it, with layers 16 and 24 of 32 (scaled to other depths unless given) and
    shares of a half and nothing, whose mean over layers is 0.625 of `keep`. Behind the last cut nothing is left, so a
    budget counted there (`after_cut`) is met by any `keep`.

    Without a class token the substitutes are those of `visionzip`, which are the authors' own for Qwen2.5-VL.

    Departs from the paper as the code does: salient words do not guide the second stage unless a switch is set that
    needs a part-of-speech tagger; it is not offered. Their Qwen code applies a share twice, which is not followed.
    """

    contextual: float = 7 / 307
    width: int = 4
    layers: tuple[int, ...] | None = None
    shares: tuple[float, ...] = (0.5, 0.0)

    def __post_init__(self) -> None:
        parameters.share(self, "contextual")
        parameters.whole(self, "width")
        if not all(0 <= b <= a <= 1 for a, b in pairwise((1.0, *self.shares))):
            raise ValueError(f"shares must fall from 1 to 0, not {self.shares!r}")
        cuts = self.layers if self.layers is not None else (16, 24)
        if len(cuts) != len(self.shares) or not all(0 <= a < b for a, b in pairwise((0, *cuts))):
            raise ValueError(f"layers must be rising whole numbers from 1, one for each share, not {self.layers!r}")

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        first = Stage("projector", keep, features=shape.class_token, reads=reads_of_tower(shape))
        layers = self.layers
        if layers is None:
            last = shape.scale(24, of=32)
            layers = (max(1, min(shape.scale(16, of=32), last - 1)), last)
        cuts = zip(layers, self.shares, strict=True)
        asks = ("next_text_attention",)
        return (first, *(Stage("decoder", int(keep * share), layer=layer, reads=asks) for layer, share in cuts))

    def reduce(self, view: View, keep: int) -> Reduction:
        if view.place == "decoder":
            scores = view["next_text_attention"].float().mean((1, 2))
            return Reduction.keep(best(scores, keep), scores.shape[1], position="renumber")
        contextual = max(0, min(round(keep * self.contextual), keep - 1))
        left = dominant(view, keep, contextual)
        return behind_class_token(view, *absorb(*looked_at(view), left, contextual, pool=self.width * contextual))
