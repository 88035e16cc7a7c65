"""VQToken, its quantisation step: a clip's tokens become the centres of their clusters."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...harness.contracts import ModelShape, Reduction, Stage, View
from ...harness.registry import compressor
from ..clustering import by_first_member, elbow, k_means, start
from ..ops import select

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
