"""HoliTom: merge what stands still over windows of frames, keep what frames attend to, then fold tokens in the LLM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import torch

from ...harness.contracts import ModelShape, Reduction, Stage, View
from ...harness.registry import compressor
from .. import parameters
from ..frames import Rows, frames_of, grouped
from ..ops import dpc_knn, largest_share, select, top


@compressor(
    "holitom",
    places=("projector", "decoder"),
    frames=True,
    needs=("received_attention@-2", "last_attention"),
    budget_kind="at_most",
    merges=True,
    keeps_order=False,
    paper="arXiv 2505.21334",
    repository="cokeshao/HoliTom",
    verified="selection",
)
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
        size, n, _ = view.tokens.shape
        frames = frames_of(view)
        clips = view.tokens.float().view(size, frames, n // frames, -1)
        attention = view["received_attention@-2"].float().mean(1).view(size, frames, -1)
        noise = view.noise(frames, n // frames)
        merged = []
        for clip, seen, draws in zip(clips, attention, noise, strict=True):
            static = stands_still(clip, self.tau)
            windows, _ = find_windows(static)
            share = largest_share(counter(windows, static), keep)
            given = [draws[start] for start, _ in windows]
            merged.append(self.merge(clip, seen, windows, static, share, given))
        return grouped(merged)

    def merge(
        self, clip: torch.Tensor, attention: torch.Tensor, windows: list[tuple[int, int]], static: torch.Tensor,
        share: float, noise: list[torch.Tensor],
    ) -> Rows:  # fmt: skip
        """One clip [frames, n, dim], with draws of every window, as many as are needed."""
        rows = Rows(clip)
        for (start, end), draws in zip(windows, noise, strict=True):
            window, (places, others) = slice(start, end + 1), split(static, start, end)
            if clusters := round(len(places) * share):
                groups, weights, centres = self.cluster(clip[window, places].mean(0), clusters, draws[: len(places)])
                rows.add(window, places, groups, weights / (end + 1 - start), centres)
            each = torch.arange(ceil(len(others) * share), device=clip.device)
            for frame, scores in enumerate(attention[window, others], start):
                rows.add(slice(frame, frame + 1), others[top(scores, len(each))], each, 1.0, each)
        return rows

    def cluster(
        self, points: torch.Tensor, clusters: int, noise: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Groups and weights of [n, dim] points, and the centres of the groups in ascending order."""
        labels, centres = dpc_knn(points[None], clusters, min(self.neighbours, clusters), noise[None])
        centres, order = centres[0].sort()
        groups = order.argsort()[labels[0]]
        others = torch.bincount(groups, minlength=clusters) - 1
        weights = ((1 - self.beta) / others.clamp(min=1))[groups]
        weights[centres] = torch.where(others > 0, self.beta, 1.0)
        return groups, weights, centres


def stands_still(clip: torch.Tensor, tau: float) -> torch.Tensor:
    """[frames, n, dim] to [frames - 1, n]: whether a place looks in the next frame as it does now."""
    return torch.nn.functional.cosine_similarity(clip[:-1], clip[1:], dim=-1) > tau


def find_windows(static: torch.Tensor) -> tuple[list[tuple[int, int]], int]:
    """The split of frames that saves most: windows (first and last frame), and static tokens saved.

    A window saves its static places once for each frame but one. Of equal splits the one of the shortest last windows.
    """
    frames = len(static) + 1
    saved: list[list[int]] = [
        [step * int(count) for step, count in enumerate(static[start:].cumprod(0).sum(1).tolist(), 1)]
        for start in range(frames - 1)
    ]
    best, first = [0] * (frames + 1), [0] * frames  # best[i]: of the frames before i
    for end in range(frames):
        best[end + 1], first[end] = best[end], end
        for start in range(end - 1, -1, -1):
            if (total := best[start] + saved[start][end - start - 1]) > best[end + 1]:
                best[end + 1], first[end] = total, start
    windows, end = [], frames - 1
    while end >= 0:
        windows.append((first[end], end))
        end = first[end] - 1
    return windows[::-1], best[-1]


def split(static: torch.Tensor, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Places that are static all through a window, and the others; in a window of one frame none is."""
    still = static[start:end].all(0) if end > start else torch.zeros_like(static[0:1].any(0))
    return still.nonzero()[:, 0], (~still).nonzero()[:, 0]


def counter(windows: list[tuple[int, int]], static: torch.Tensor) -> Callable[[float], int]:
    """How many tokens of a clip a share of static and other tokens alike leaves."""
    parts = [(end - start + 1, *(len(p) for p in split(static, start, end))) for start, end in windows]
    return lambda share: sum(round(still * share) + length * ceil(others * share) for length, still, others in parts)


def fold(tokens: torch.Tensor, scores: torch.Tensor, keep: int) -> Reduction:
    """Keep the best of [batch, n, dim] tokens in order; the others, one by one, average into the most similar one."""
    kept = top(scores, keep)
    stays = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, kept, True)
    others = (~stays).nonzero()[:, 1].view(len(scores), -1)
    unit = torch.nn.functional.normalize(tokens.float(), dim=-1)
    joined = (select(unit, others) @ select(unit, kept).mT).argmax(-1)
    groups = torch.zeros_like(scores, dtype=torch.long).scatter_(1, others, joined)
    groups.scatter_(1, kept, torch.arange(keep, device=kept.device).expand_as(kept))
    # what is kept is halved by every member; a member when it joins, and by those that join later
    members = torch.zeros_like(kept).scatter_add_(1, joined, torch.ones_like(joined))
    later = (joined[:, :, None] == joined[:, None]).triu(1).sum(-1)
    halvings = torch.zeros_like(groups).scatter_(1, kept, members).scatter_(1, others, later + 1)
    return Reduction.merge(groups, 0.5**halvings, anchor=kept, normalize=False, position="keep")
