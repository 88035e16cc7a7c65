"""PiToMe: merge tokens of large clusters, which have much energy, and protect the isolated ones."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor

import torch

from ...harness.contracts import ModelShape, Reduction, Stage, View
from ...harness.registry import compressor
from .. import parameters
from ..counts import largest_share
from ..pairs import Form, pair_by_energy


@compressor(
    "pitome",
    places=("encoder",),
    needs=("keys",),
    merges=True,
    keeps_order=False,
    paper="arXiv 2405.16148",
    repository="hchautran/PiToMe",
    verified="selection",
)
@dataclass(frozen=True)
class PiToMe:
    """Rank tokens by energy, the mean ELU of their cosine similarities less a margin, and merge those ranked first.

    Paper: Accelerating Transformers with Spectrum-Preserving Token Merging, arXiv 2405.16148; authors' repository
    hchautran/PiToMe. `view.tokens` is [batch, n, dim]; similarity is the cosine of `keys` [batch, heads, n, d] averaged
    over heads; the class token takes no part. The margin falls from `margin` in the first layer to 0 behind the last of
    the tower. The first half of the layers pairs all tokens (even ranks with odd ones, the most similar pairs merge),
    the second half only the 2r tokens of the highest energy, as the authors' DeiT does; `energy_first=True` swaps the
    halves, as their MAE does. Merged tokens are means weighted by size. Order: protected, then targets, by energy.

    Departs from the paper: later layers do not attend in proportion to size, as in the released code
    (`proportional=True` does). `margin` is 0.9, of the paper and of the code for CLIP towers; the code for DeiT and MAE
    has 0.75. The share that every layer keeps is the largest that leaves `keep` tokens by the layer that the LLM's
    features come from, the last merging layer merges what is missing, and none merges more than half of its tokens.
    """

    margin: float = 0.9
    energy_first: bool = False
    proportional: bool = False

    def __post_init__(self) -> None:
        parameters.number(self, "margin", least=0, most=1)

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        layers, keep = shape.feature_layers or shape.vision_layers, max(keep, 1)
        share = largest_share(lambda share: _counts(shape.tokens, share, layers)[-1], keep, 0.5)
        counts = [max(keep, left) for left in _counts(shape.tokens, share, layers)]
        return tuple(
            Stage("encoder", left, layer=layer, reads=("keys",), proportional=self.proportional)
            for layer, left in enumerate(counts)
            if left < ([shape.tokens, *counts][layer])
        )

    def reduce(self, view: View, keep: int) -> Reduction:
        if view.shape is None or view.layer is None:
            raise ValueError("PiToMe's margin follows from the layer's place in the tower: the view must name both")
        layers, beside = view.shape.vision_layers, 0 if view.class_index is None else 1
        early = 2 * view.layer < layers
        form: Form = "half" if early != self.energy_first else "energy"
        margin = self.margin * (1 - view.layer / layers)
        metric = view["keys"].float().mean(1)[:, beside:]
        groups, anchor = pair_by_energy(metric, metric.shape[1] - keep, margin, form)
        if beside:
            first = groups.new_zeros(len(groups), 1)
            groups, anchor = torch.cat([first, groups + 1], 1), torch.cat([first, anchor + 1], 1)
        return Reduction.merge(groups, view.sizes, anchor=anchor, position="renumber")


def _counts(tokens: int, share: float, layers: int) -> list[int]:
    counts = [tokens]
    for _ in range(layers):
        counts.append(counts[-1] - min(floor(counts[-1] - counts[-1] * share), counts[-1] // 2))
    return counts[1:]
