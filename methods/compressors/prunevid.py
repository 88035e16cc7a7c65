"""PruneVid: average what stands still over windows of frames, cluster the rest, keep what the question looks at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ...harness.contracts import ModelShape, Reduction, Stage, View
from ...harness.registry import compressor
from .. import parameters
from ..attention import attended
from ..clustering import dpc_knn
from ..counts import proportional, spread
from ..frames import Rows, clips_of, grouped
from ..windows import Group, alike_windows

FEW = 14
"""Tokens that are not clustered while half of all may stay."""


@compressor(
    "prunevid", places=("projector", "decoder"), frames=True, needs=("text_attention",), budget_kind="at_most",
    merges=True, keeps_order=False, paper="arXiv 2412.16117", repository="Visual-AI/PruneVid", verified="selection",
)  # fmt: skip
@dataclass(frozen=True)
class PruneVid:
    """Windows of alike frames; their static places are averaged, and static and each frame's other tokens clustered.

    Paper: PruneVid: Visual Token Pruning for Efficient Video Large Language Models, arXiv 2412.16117; authors'
    repository Visual-AI/PruneVid. `view.tokens` [samples, frames * n, dim] are all frames of a clip. Frames are
    clustered by density peaks of their means, a quarter as many clusters as frames, and made contiguous. Places whose
    mean cosine over pairs of frames exceeds `tau` are static, and averaged over their window. Static tokens of a window
    and the other tokens of each frame are clustered by density peaks, to half of them, where they are more than 14.
    Rows: static tokens of a window, which count as its first frame's, then the others frame by frame; clusters in the
    order of their score. Positions are renumbered.

    After LLM layer 10 of 32 (scaled; `layer` is the first on fewer tokens) a share `alpha` of every frame's tokens
    stays, those that any head of any word behind the clip looks at most (`text_attention` [samples, heads, t, n]);
    positions are kept. `inner=False` leaves this out. `keep` is counted after it.

    Departs from the code: the share that clusters leave follows from the budget, what rounding leaves over goes to the
    groups (in the LLM: frames) that lost most by it, and below a half small groups shrink as well. In the LLM a
    window's static tokens share the budget of its first frame, where the authors rank them apart (`attended` can do
    both), and the caches of earlier layers stay whole, where the authors cut them too.
    """

    tau: float = 0.8
    alpha: float = 0.4
    layer: int | None = None
    inner: bool = True

    def __post_init__(self) -> None:
        parameters.number(self, "tau", least=-1, most=1)
        parameters.number(self, "alpha", least=0.01, most=1)
        parameters.whole(self, "layer")

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        if not self.inner:
            return (Stage("projector", keep, joint=True),)
        layer = shape.scale(11, of=32) if self.layer is None else self.layer
        entering = Stage("projector", min(round(max(keep, 1) / self.alpha), shape.tokens), joint=True)
        return (entering, Stage("decoder", keep, layer=layer, reads=("text_attention",), joint=True))

    def reduce(self, view: View, keep: int) -> Reduction:
        if view.place == "decoder":
            n = view.tokens.shape[1]
            image = torch.zeros_like(view.tokens[..., 0]).long() if view.image is None else view.image
            counts = proportional(torch.nn.functional.one_hot(image).sum(1), min(keep, n))
            return Reduction.keep(attended(view["text_attention"].float(), image, counts), n)
        clips, merged = clips_of(view), []
        frames = clips.shape[1]
        for clip, draws in zip(clips, view.noise(1 + 2 * frames, max(clips.shape[1:3])), strict=True):
            groups = alike_windows(clip, self.tau, frames // 4, draws[0, :frames])
            wanted = spread([len(places) for _, places in groups], keep, FEW)
            merged.append(cluster(clip, groups, wanted, iter(draws[1:])))
        return grouped(merged)


def cluster(clip: torch.Tensor, groups: Sequence[Group], counts: Sequence[int], noise: Iterator[torch.Tensor]) -> Rows:
    """Merge the groups of a clip [frames, n, dim] to as many clusters each, with `noise` for those that it takes."""
    rows = Rows(clip)
    for (window, places), count in zip(groups, counts, strict=True):
        if count == 0:
            continue
        mine = centres = torch.arange(len(places), device=clip.device)
        if count < len(places):
            points, draws = clip[window, places].mean(0)[None], next(noise)[None, : len(places)]
            mine, centres = (t[0] for t in dpc_knn(points, count, 7, draws))
        members = (window.stop - window.start) * torch.bincount(mine)[mine]
        rows.add(window, places, mine, 1 / members, centres)
    return rows
