"""Clusterings that several methods stand on: density peaks, medoids, means, and the spectrum of a graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..harness.contracts import Reduction, View
from .counts import clustered


def by_first_member(labels: torch.Tensor) -> torch.Tensor:
    """Clusters renamed in the order of first members, without gaps: [batch, n], -1 for no cluster, to the same."""
    size, n = labels.shape
    place = torch.arange(n, device=labels.device).expand(size, n)
    first = torch.full((size, n + 1), n, dtype=torch.long, device=labels.device)
    first.scatter_reduce_(1, torch.where(labels < 0, n, labels), place, "amin")
    rank = first[:, :n].argsort(dim=1, stable=True).argsort(dim=1)
    return torch.where(labels < 0, -1, rank.gather(1, labels.clamp(min=0)))


def squared_distances(points: torch.Tensor) -> torch.Tensor:
    """Between the points of each batch row, Euclidean: [batch, n, dim] to [batch, n, n], in float32 at least."""
    points = points if points.dtype == torch.float64 else points.float()
    centred = points - points.mean(1, keepdim=True)  # keeps what cancels below small
    length = centred.square().sum(-1)
    squared = (length[:, :, None] + length[:, None] - 2 * (centred @ centred.mT)).clamp(min=0)
    squared.diagonal(dim1=1, dim2=2).zero_()
    return squared


def dpc_knn(
    points: torch.Tensor, clusters: int, neighbours: int, noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clustering by density peaks: every point joins the nearest of `clusters` centres, of `density_peaks`' best.

    Args:
        points: [batch, n, dim].
        clusters: at most n.
        neighbours, noise: of `density_peaks`.

    Returns:
        groups: [batch, n] the rank of the centre that each point joins; a centre joins itself.
        centres: [batch, clusters] indices of points, the best first.
    """
    scores, distance = density_peaks(points, neighbours, noise)
    centres = scores.sort(dim=-1, descending=True, stable=True).indices[:, :clusters]
    to_centres = distance.gather(2, centres[:, None].expand(-1, points.shape[1], -1))
    groups = to_centres.argmin(-1)
    own = torch.arange(clusters, device=points.device).expand_as(centres)
    return groups.scatter(1, centres, own), centres


def density_peaks(points: torch.Tensor, neighbours: int, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How much each point is a peak: its density times its distance to the nearest denser point (DPC-KNN).

    Distances are Euclidean, divided by sqrt(dim). Density is exp(-mean squared distance to the nearest `neighbours`,
    the point itself being one of them) plus 1e-6 `noise`, without which duplicates would be equally dense. The densest
    point counts with the largest distance that there is.

    Args:
        points: [batch, n, dim]; computed in float32 at least.
        neighbours: n of them at most are used.
        noise: [batch, n] uniform draws in [0, 1).

    Returns:
        scores: [batch, n]; distance: [batch, n, n].
    """
    squared = squared_distances(points) / points.shape[-1]
    nearest = squared.topk(min(neighbours, points.shape[1]), largest=False, sorted=False).values
    density = (-nearest.mean(-1)).exp() + 1e-6 * noise
    distance = squared.sqrt()
    denser = density[:, None] > density[:, :, None]
    furthest = distance.amax((1, 2), keepdim=True)
    return torch.where(denser, distance, furthest).amin(-1) * density, distance


def centred_clusters(
    points: torch.Tensor, clusters: int, neighbours: int, noise: torch.Tensor, beta: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Density peaks of [n, dim] points as HoliTom averages them: `beta` of the centre, the rest of the other members.

    Returns:
        Group and weight of every point, [n] each, and the centres of the groups in ascending order.
    """
    labels, centres = dpc_knn(points[None], clusters, min(neighbours, clusters), noise[None])
    centres, order = centres[0].sort()
    groups = order.argsort()[labels[0]]
    others = torch.bincount(groups, minlength=clusters) - 1
    weights = ((1 - beta) / others.clamp(min=1))[groups]
    weights[centres] = torch.where(others > 0, beta, 1.0)
    return groups, weights, centres


def recycle(view: View, scores: torch.Tensor, whole: int, keep: int) -> Reduction:
    """Keep the `whole` tokens of the highest scores, in order; clusters of the next best follow (SparseVLM).

    Args:
        scores: [batch, n].
        keep: rows in all.
    """
    size, n = scores.shape
    ranked, recycled = scores.sort(dim=-1, descending=True, stable=True).indices, clustered(n, whole)[0]
    kept, others = ranked[:, :whole].sort(dim=-1).values, ranked[:, whole : whole + recycled]
    labels, centres = dpc_knn(
        view.tokens.take_along_dim(others[..., None], 1), keep - whole, keep - whole, view.noise(recycled)
    )
    groups = torch.full((size, n), -1, dtype=torch.long, device=scores.device)
    groups.scatter_(1, kept, torch.arange(whole, device=scores.device).expand(size, -1))
    groups.scatter_(1, others, whole + labels)
    return Reduction.merge(groups, anchor=torch.cat([kept, others.gather(1, centres)], 1), position="renumber")


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
    length = points.norm(dim=-1)
    # of unit vectors, as spectra are, rounding must not choose the longest
    medoids[:, 0] = (length >= (1 - 1e-6) * length.amax(-1, keepdim=True)).int().argmax(-1)
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
        chosen = points.take_along_dim(pick[..., None], 1)
        nearest = torch.minimum(nearest, (2 - 2 * points @ chosen.mT)[..., 0].clamp(min=0))
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
    centres = points.take_along_dim(first[..., None], 1)
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
