"""DyMU: merge every pair of tokens that is more alike than a threshold, so that simple pictures keep fewer."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...harness.contracts import ModelShape, Reduction, Refusal, Stage, View
from ...harness.registry import compressor
from .. import parameters
from ..pairs import Ramp, best_partners, find_threshold, merge_stages, pair_above, share_out


@compressor(
    "dymu",
    places=("encoder", "attention"),
    needs=("keys",),
    budget_kind="adaptive",
    merges=True,
    keeps_order=False,
    paper="arXiv 2504.17040",
    repository="MikeWangWZHL/dymu",
    verified="selection",
)
@dataclass(frozen=True)
class DyMU:
    """Bipartite soft matching (ToMe) of all pairs above a threshold of their layer, half of the tokens at most.

    Paper: DyMU: Dynamic Merging and Virtual Unmerging for Efficient VLMs, arXiv 2504.17040; authors' repository
    MikeWangWZHL/dymu. `view.tokens` is [batch, n, dim] with the class token in front, which never merges; similarity is
    the cosine of `keys` [batch, heads, n, d] averaged over heads; merged tokens are means weighted by size, and later
    layers attend in proportion to size (which the released code does in its fused attention; its other branch adds the
    bias behind the softmax, a bug). `thresholds` holds one similarity per vision layer, from `find_threshold` on many
    pictures; counts then differ between pictures and `keep` is their nominal average, spread over layers by `schedule`.
    With `unmerge` (virtual unmerging) the LLM's attention, positions included, is that of the full prompt, in which a
    token stands wherever something was merged into it: 1.87 instead of 1.67 TFLOPs for the prefill of LLaVA-1.5-7B with
    64 of 576 tokens and 64 of text. `unmerge=False` hands the LLM an ordinary shorter prompt.

    Departs from the paper: without `thresholds` every picture is its own set for estimating them, which merges the same
    number everywhere (pairs of negative similarity never merge); the authors' thresholds come from 250,000 pictures.
    Departs from the code: its cache repeats the keys of a token at every place, here it holds them once.
    """

    thresholds: tuple[float, ...] | None = None
    schedule: Ramp = "constant"
    unmerge: bool = True

    def __post_init__(self) -> None:
        parameters.one_of(self, "schedule", "constant", "linear", "reverse_linear")
        parameters.truth(self, "unmerge")
        if self.thresholds is not None and not all(isinstance(t, int | float) for t in self.thresholds):
            raise ValueError(f"thresholds must be numbers, one per vision layer, not {self.thresholds!r}")

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        layers, keep = shape.feature_layers or shape.vision_layers, max(keep, 1)
        if self.thresholds is not None and len(self.thresholds) < layers:
            raise Refusal(f"has {len(self.thresholds)} thresholds, and the tower merges in {layers} layers")
        totals = range(shape.tokens - keep, shape.tokens * layers)
        stages = merge_stages(keep, shape, (share_out(total, layers, self.schedule) for total in totals))
        left = stages[-1].keep if stages else shape.tokens
        return (*stages, Stage("attention", left)) if self.unmerge else stages

    def reduce(self, view: View, keep: int) -> Reduction:
        protected = 0 if view.class_index is None else 1
        metric = view["keys"].float().mean(1)
        size, n, _ = metric.shape
        if self.thresholds is not None and view.layer is not None:
            threshold = metric.new_full((size, 1), self.thresholds[view.layer])
        else:
            best, _ = best_partners(metric, protected)
            threshold = torch.stack([find_threshold(row, n - protected - keep) for row in best])[:, None]
        groups, anchor = pair_above(metric, threshold, protected)
        return Reduction.merge(groups, view.sizes, anchor=anchor, position="renumber")
