"""FastVID: salient tokens of every frame, and dense ones of a few frames that take in the rest of their segment."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...harness.contracts import ModelShape, Reduction, Stage, View
from ...harness.registry import compressor
from .. import parameters
from ..clustering import density_peaks
from ..counts import strided
from ..frames import clips_of, mixed, taken_in
from ..ops import best
from ..windows import segments


@compressor(
    "fastvid", places=("projector",), frames=True, needs=("received_attention@-2",), budget_kind="at_most",
    merges=True, paper="arXiv 2503.11187", repository="LunarShen/FastVID", verified="selection",
)  # fmt: skip
@dataclass(frozen=True)
class FastVID:
    """Cut a clip into segments of alike frames; every frame keeps salient tokens, anchor frames contextual ones too.

    Paper: FastVID: Dynamic Density Pruning for Fast Video Large Language Models, arXiv 2503.11187; authors' repository
    LunarShen/FastVID. `view.tokens` [samples, frames * n, dim] are all frames of a clip. Segments are cut between
    frames whose features have a cosine below `tau`, and at the `segments` - 1 lowest in any case. Of a frame's budget
    a share `contextual` is pooled over its segment and given to every `stride`-th frame from the segment's end: there
    the density peaks (4 neighbours) among the tokens that are not salient are anchors, and every token of the segment
    that is not salient joins the most alike anchor of each such frame. A row is w * anchor + (1 - w) * mean, w the
    larger of 1 / (members + 1) and `beta`, and stands where its anchor stood; all positions are kept.

    Departs from the code: its features and scores of a frame come from SigLIP's pooling head, which other towers lack;
    here they are, as in its variant for Qwen2.5-VL, the mean of a frame's tokens and the mean attention that a token
    receives (`received_attention@-2` [samples, heads, frames * n]). Shares are rounded down, as there, so that fewer
    than `keep` tokens may go on. Where an anchor frame has too few tokens for its share, on which the code fails, more
    frames are anchors.
    """

    segments: int = 8
    tau: float = 0.9
    contextual: float = 0.4
    stride: int = 4
    beta: float = 0.6

    def __post_init__(self) -> None:
        parameters.whole(self, "segments", "stride")
        parameters.number(self, "tau", least=-1, most=1)
        parameters.number(self, "contextual", "beta", least=0, most=1)

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        return (Stage("projector", keep, reads=("received_attention@-2",), joint=True),)

    def reduce(self, view: View, keep: int) -> Reduction:
        tokens = clips_of(view)
        _, frames, n, _ = tokens.shape
        attention = view["received_attention@-2"].float().mean(1).view(tokens.shape[:3])
        each = keep // frames
        noise = view.noise(frames, n - each + int(each * self.contextual))
        clips = zip(tokens, tokens.mean(2), attention, noise, strict=True)
        return mixed([self.clip(*clip, each) for clip in clips])

    def clip(
        self, tokens: torch.Tensor, features: torch.Tensor, attention: torch.Tensor, noise: torch.Tensor, each: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Reduce one clip [frames, n, dim] to about `each` tokens per frame.

        Args:
            features: [frames, any]; attention: [frames, n]; noise: [frames, tokens that are not salient].

        Returns:
            The weights of every row, [rows, frames * n], and the rows' anchors.
        """
        frames, n, _ = tokens.shape
        shared = int(each * self.contextual)
        salient, room = best(attention, each - shared), n - each + shared
        places = torch.arange(frames * n, device=tokens.device).view(frames, n)
        others, unit = places[~salient].view(frames, room), torch.nn.functional.normalize(tokens.flatten(0, 1), dim=-1)
        peaks, _ = density_peaks(tokens.flatten(0, 1)[others], 4, noise)
        ranked = others.gather(1, peaks.sort(dim=1, descending=True, stable=True).indices)
        anchors = [places[salient]]
        rows = [torch.nn.functional.one_hot(anchors[0], frames * n).float()]
        first = 0
        for length in segments(features, self.segments, self.tau):
            for frame, count in enumerate(strided(length, shared, room, self.stride), first):
                if count:
                    pool = others[frame] if count == shared else others[first : first + length].flatten()
                    anchors.append(ranked[frame, :count])
                    rows.append(taken_in(unit, anchors[-1], pool, self.beta))
            first += length
        return torch.cat(rows), torch.cat(anchors)
