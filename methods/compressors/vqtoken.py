"""VQToken, its quantisation step: a clip's tokens become the centres of their clusters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...harness.contracts import ModelShape, Reduction, Stage, View
from ...harness.registry import compressor
from ..ops import by_first_member, select

FEWEST, MOST = 12, 32
"""Clusters of the adaptive search."""


@compressor(
    "vqtoken",
    places=("projector",),
    budget_kind="at_most",
    stochastic=True,
    merges=True,
    keeps_order=False,
    paper="arXiv 2503.16980",
    repository="Hai-chao-Zhang/VQToken",
    verified="selection",
)
@dataclass(frozen=True)
class VQToken:
    """Spherical k-means over the tokens of all frames at once; every cluster's mean goes on.

    Paper: VQToken: Neural Discrete Token Representation Learning for Extreme Token Reduction in Video Large Language
    Models, arXiv 2503.16980; authors' repository Hai-chao-Zhang/VQToken. `view.tokens` [batch, images * n, dim] are the
    projected tokens of a clip, compared by cosine; k-means starts from draws that favour far tokens and ends when the
    centres move by less than 1e-4. Clusters may end empty, so that fewer than `keep` tokens go on. With `adaptive` the
    number of clusters is read off the elbow of the within-cluster sums of 12 to 32 (at most `keep`) of them.

    Departs from the paper: only the quantisation is here, which needs no training. The trained attention that mixes the
    codebook with the map of cluster numbers is left out, and the means are of the tokens themselves, where the codebook
    holds means of unit vectors, whose length an untrained LLM does not know (`normalised=True` gives these). A cluster
    stands where its first member stood. Kept of the code: it takes the elbow's place in its list, which
    starts at 12, for a number of clusters, adds 2, and so finds 12 to 22; the paper's mean of 13.08 agrees with that.
    """

    adaptive: bool = False
    normalised: bool = False

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        return (Stage("projector", keep, joint=True),)

    def reduce(self, view: View, keep: int) -> Reduction:
        length = view.tokens.float().norm(dim=-1).clamp(min=1e-12)
        points = view.tokens.float() / length[..., None]
        counts = torch.full((len(points),), keep, device=points.device)
        if self.adaptive and keep > FEWEST:
            counts = _elbows(view, points, min(keep, MOST))
        labels, _ = k_means(points, start(points, view.noise(int(counts.max()))), counts=counts)
        groups = by_first_member(labels)
        if not self.normalised:
            return Reduction.merge(groups, position="renumber")
        members = torch.zeros_like(length).scatter_add_(1, groups, torch.ones_like(length)).gather(1, groups)
        return Reduction.merge(groups, 1 / (length * members), normalize=False, position="renumber")


def _elbows(view: View, points: torch.Tensor, most: int) -> torch.Tensor:
    sums = []
    for clusters in range(FEWEST, most + 1):
        labels, centres = k_means(points, start(points, view.noise(clusters)), most=100)
        sums.append((points - select(centres, labels)).square().sum((1, 2)))
    found = [elbow(curve) + 2 for curve in torch.stack(sums, 1).tolist()]
    return torch.tensor(found, device=points.device).clamp(FEWEST, most)


def elbow(sums: Sequence[float]) -> int:
    """Where the within-cluster sums of 1, 2, 3... clusters bend most (1 where there is nothing to bend)."""
    bends = [sums[i + 2] - 2 * sums[i + 1] + sums[i] for i in range(len(sums) - 2)]
    return bends.index(max(bends)) + 2 if bends else 1


def start(points: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """First centres, as k-means++ draws them: unit [batch, n, d] and uniform draws [batch, k] to indices [batch, k]."""
    size, n, _ = points.shape
    picks = torch.zeros(draws.shape, dtype=torch.long, device=points.device)
    weights = torch.ones(size, n, device=points.device)
    nearest = torch.full((size, n), torch.inf, device=points.device)
    for step in range(draws.shape[1]):
        reached = weights.cumsum(1)
        target = draws[:, step, None] * reached[:, -1:]
        pick = torch.searchsorted(reached, target, right=True).clamp(max=n - 1)
        picks[:, step] = pick[:, 0]
        nearest = torch.minimum(nearest, (2 - 2 * points @ select(points, pick).mT)[..., 0].clamp(min=0))
        weights = nearest + 1e-6
    return picks


def k_means(
    points: torch.Tensor, first: torch.Tensor, *, counts: torch.Tensor | None = None, most: int = 300,
    tolerance: float = 1e-4,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Spherical k-means whose centres are plain means; an empty cluster keeps its centre.

    Args:
        points: [batch, n, d] unit vectors. first: [batch, k] the points that the centres start at.
        counts: [batch] how many of them a batch row uses, default all.
        most, tolerance: rounds at most, and how far the centres of a row move in its last.

    Returns:
        labels: [batch, n]; centres: [batch, k, d].
    """
    size, n, d = points.shape
    k = first.shape[1]
    centres = select(points, first)
    unused = torch.zeros(size, k, dtype=torch.bool, device=points.device)
    if counts is not None:
        unused = torch.arange(k, device=points.device) >= counts[:, None]
    labels = torch.zeros(size, n, dtype=torch.long, device=points.device)
    moving = torch.ones(size, 1, 1, dtype=torch.bool, device=points.device)
    for _ in range(most):
        distance = 1 - points @ torch.nn.functional.normalize(centres, dim=-1).mT
        labels = torch.where(moving[..., 0], distance.masked_fill(unused[:, None], torch.inf).argmin(-1), labels)
        flat = (labels + k * torch.arange(size, device=points.device)[:, None]).flatten()
        total = points.new_zeros(size * k, d).index_add_(0, flat, points.flatten(0, 1)).view(size, k, d)
        count = torch.bincount(flat, minlength=size * k).view(size, k, 1)
        means = torch.where(count > 0, total / count.clamp(min=1), centres)
        moving = moving & ((means - centres).norm(dim=(1, 2), keepdim=True) >= tolerance)
        if not bool(moving.any()):
            break
        centres = torch.where(moving, means, centres)
    return labels, centres
