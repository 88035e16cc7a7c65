"""HoliTom: merge what stands still over windows of frames, keep what frames attend to, then fold tokens in the LLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from ...harness.contracts import ModelShape, Reduction, Stage, View
from ...harness.registry import compressor
from .. import parameters
from ..clustering import centred_clusters
from ..counts import largest_share
from ..frames import Rows, clips_of, grouped
from ..ops import fold, top
from ..windows import Group, left_in, left_in_all, still_windows


@compressor(
    "holitom", places=("projector", "decoder"), frames=True, needs=("received_attention@-2", "last_attention"),
    budget_kind="at_most", merges=True, keeps_order=False, paper="arXiv 2505.21334", repository="cokeshao/HoliTom",
    verified="selection",
)  # fmt: skip
@dataclass(frozen=True)
class HoliTom:
    """Average static places over windows of frames and cluster them; of the others keep those that are attended to.

    Paper: HoliTom: Holistic Token Merging for Fast Video Large Language Models, arXiv 2505.21334; authors' repository
    cokeshao/HoliTom. `view.tokens` [samples, frames * n, dim] are all frames of a clip. A place is static where the
    cosine between neighbouring frames exceeds `tau`; windows are those that save most static tokens. In each, static
    means are clustered by density peaks (`beta` times the centre plus the rest times the mean of the others) and stand
    in its first frame; of every frame's other tokens those of the largest `received_attention@-2` [samples, heads,
    frames * n] stay. One share of both is kept everywhere. Positions are renumbered.

    Before LLM layer `layer` (18 of 28, scaled, unless given) half of the tokens stay, those that the last prompt token
    looks at most (`last_attention` [samples, heads, n]); each of the others, in order, makes the most similar one the
    mean of the two. Positions are kept. `inner=False` leaves this part out. `keep` is counted after it.

    Departs from the code: the share is the largest whose counts, rounded as theirs, stay within the budget; theirs is
    the budget's over the share that is not static, and ends a little above. Clustering the other tokens of a frame as
    well, which fails in the code, is not offered. `tau` is 0.8; the authors take 0.65 where a tenth is kept.
    """

    tau: float = 0.8
    beta: float = 0.6
    neighbours: int = 7
    layer: int | None = None
    inner: bool = True

    def __post_init__(self) -> None:
        parameters.number(self, "tau", least=-1, most=1)
        parameters.number(self, "beta", least=0, most=1)
        parameters.whole(self, "neighbours", "layer")
        parameters.truth(self, "inner")

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        keep = max(keep, 1)
        door = Stage("projector", keep, reads=("received_attention@-2",), joint=True)
        if not self.inner:
            return (door,)
        layer = shape.scale(18, of=28) if self.layer is None else self.layer
        entering = Stage("projector", min(2 * keep, shape.tokens), reads=door.reads, joint=True)
        return (entering, Stage("decoder", keep, layer=layer, reads=("last_attention",), joint=True))

    def reduce(self, view: View, keep: int) -> Reduction:
        if view.place == "decoder":
            return fold(view.tokens, view["last_attention"].float().mean(1), min(keep, view.tokens.shape[1]))
        clips, merged = clips_of(view), []
        attention = view["received_attention@-2"].float().mean(1).view(clips.shape[:3])
        for clip, seen, draws in zip(clips, attention, view.noise(*clips.shape[1:3]), strict=True):
            groups = still_windows(clip, self.tau)
            share = largest_share(partial(left_in_all, groups), keep)
            merged.append(self.merge(clip, seen, groups, share, draws))
        return grouped(merged)

    def merge(
        self, clip: torch.Tensor, attention: torch.Tensor, groups: Sequence[Group], share: float, noise: torch.Tensor
    ) -> Rows:
        """One clip [frames, n, dim], with attention and noise [frames, n]; a window's draws are its first frame's."""
        rows = Rows(clip)
        for window, places in groups:
            frames, wanted = window.stop - window.start, left_in((window, places), share)
            if wanted and frames > 1:
                draws = noise[window.start, : len(places)]
                points = clip[window, places].mean(0)
                mine, weights, centres = centred_clusters(points, wanted, self.neighbours, draws, self.beta)
                rows.add(window, places, mine, weights / frames, centres)
            elif wanted:
                each, kept = torch.arange(wanted, device=clip.device), top(attention[window.start, places], wanted)
                rows.add(window, places[kept], each, 1.0, each)
        return rows
