"""CenterCLIP: cluster the patches of a few consecutive frames, and keep the medoids."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...harness.contracts import ModelShape, Reduction, Stage, View
from ...harness.registry import compressor
from .. import parameters
from ..frames import frames_of
from ..ops import squared_distances


@compressor(
    "centerclip",
    places=("projector",),
    frames=True,
    paper="arXiv 2205.00823",
    repository="mzhaoshuai/CenterCLIP",
    verified="selection",
)
@dataclass(frozen=True)
class CenterCLIP:
    """K-medoids over the tokens of every `frames` consecutive frames of a clip; medoids stay in raster order.

    Paper: CenterCLIP: Token Clustering for Efficient Text-Video Retrieval, arXiv 2205.00823; authors' repository
    mzhaoshuai/CenterCLIP. `view.tokens` [batch, images * n, dim]; distances are Euclidean (`cosine=True`: 1 - cosine).
    Medoids start from the longest vector and go on to the point farthest from all chosen ones (KKZ); at most 100
    rounds. The medoids themselves go on, or the means of their clusters with `mean=True`. With `sigma` the clustering
    is spectral: of a heat kernel's eigenvectors instead of the tokens. Segments share the budget of the clip by their
    numbers of frames; the last one may be shorter.

    Departs from the paper: there it acts inside CLIP's image tower, before block 7 of 12, and the segment becomes one
    frame whose class token is the mean of its frames'; here it acts on projected tokens, which keep their frames. The
    authors' segments hold 2 or 3 of 12 frames; `frames` is 2. Segments are clustered one by one, whereas the code stops
    a chunk of them together, which makes no difference once they have settled.
    """

    frames: int = 2
    cosine: bool = False
    mean: bool = False
    sigma: float | None = None

    def __post_init__(self) -> None:
        parameters.whole(self, "frames")
        parameters.above(self, "sigma", least=0)

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        return (Stage("projector", keep, joint=True),)

    def reduce(self, view: View, keep: int) -> Reduction:
        n = view.tokens.shape[1]
        images = frames_of(view)
        each = n // images
        kept: list[torch.Tensor] = []
        groups: list[torch.Tensor] = []
        for first in range(0, images, self.frames):
            last = min(first + self.frames, images)
            clusters = keep * last // images - keep * first // images
            points = view.tokens[:, first * each : last * each].float()
            if self.sigma is not None and clusters:
                points = spectrum(affinity(points, self.sigma), clusters)
            medoids, assigned = k_medoids(points, clusters, cosine=self.cosine)
            groups.append(assigned + sum(m.shape[1] for m in kept))
            kept.append(medoids + first * each)
        anchor = torch.cat(kept, 1)
        if not self.mean:
            return Reduction.keep(anchor, n, position="renumber")
        return Reduction.merge(torch.cat(groups, 1), anchor=anchor, position="renumber")


def k_medoids(
    points: torch.Tensor, clusters: int, *, cosine: bool = False, rounds: int = 100
) -> tuple[torch.Tensor, torch.Tensor]:
    """Medoids [batch, clusters], ascending, and the cluster of every point [batch, n], of points [batch, n, dim].

    Starts from the longest vector and then the point farthest from the nearest chosen one (KKZ). Every round a point
    joins its nearest medoid, and the member with the smallest summed distance becomes the medoid; of equals the first.
    """
    size, n, _ = points.shape
    distance = _distances(points, cosine)
    distance.diagonal(dim1=1, dim2=2).sub_(1)  # a duplicate is farther from a point than that point itself
    medoids = torch.zeros(size, clusters, dtype=torch.long, device=points.device)
    if clusters == 0:
        return medoids, torch.full((size, n), -1, device=points.device)
    rows = torch.arange(size, device=points.device)
    medoids[:, 0] = points.norm(dim=-1).argmax(-1)
    nearest = distance[rows, medoids[:, 0]]
    for step in range(1, clusters):
        medoids[:, step] = nearest.argmax(-1)
        nearest = torch.minimum(nearest, distance[rows, medoids[:, step]])
    for _ in range(rounds):
        member = torch.nn.functional.one_hot(_nearest(distance, medoids), clusters).to(distance)
        moved = (distance @ member).masked_fill(member == 0, torch.inf).argmin(1)
        settled, medoids = torch.equal(moved, medoids), moved
        if settled:
            break
    medoids = medoids.sort(dim=1).values
    return medoids, _nearest(distance, medoids)


def _distances(points: torch.Tensor, cosine: bool) -> torch.Tensor:
    if cosine:
        unit = torch.nn.functional.normalize(points, dim=-1)
        return 1 - unit @ unit.mT
    return squared_distances(points).sqrt()


def _nearest(distance: torch.Tensor, medoids: torch.Tensor) -> torch.Tensor:
    return distance.gather(2, medoids[:, None].expand(-1, distance.shape[1], -1)).argmin(-1)


def affinity(points: torch.Tensor, sigma: float, neighbours: int | None = None) -> torch.Tensor:
    """Heat kernel of Euclidean distances, zero where neither of two points is among the other's nearest."""
    squared = squared_distances(points)
    weights = torch.exp(-squared / (2 * sigma**2))
    if neighbours is None:
        return weights
    near = torch.zeros_like(weights).scatter_(2, squared.topk(neighbours, largest=False).indices, 1.0)
    return weights * torch.maximum(near, near.mT)


def spectrum(weights: torch.Tensor, clusters: int) -> torch.Tensor:
    """Rows of the last left singular vectors of the normalised Laplacian, at unit length."""
    scale = weights.sum(-1).rsqrt()
    laplacian = torch.eye(weights.shape[-1]).to(weights) - scale[:, :, None] * weights * scale[:, None]
    return torch.nn.functional.normalize(torch.linalg.svd(laplacian).U[..., -clusters:], dim=-1)
