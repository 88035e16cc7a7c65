"""The few tensor operations that several methods share: choosing the best, spreading out, absorbing, clustering."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import torch

from ..harness.contracts import Reduction, View


def best(scores: torch.Tensor, keep: int | torch.Tensor) -> torch.Tensor:
    """True at the `keep` highest scores of every row, [batch, n] to the same. Of equals the first wins.

    `keep` [batch, 1] is a count for each row.
    """
    n = scores.shape[-1]
    if isinstance(keep, torch.Tensor):
        lowest = scores.topk(max(int(keep.max()), 1))[0].gather(-1, (keep - 1).clamp(min=0))
        wanted = int(keep.sum())
    elif 0 < keep < n:
        lowest, wanted = scores.kthvalue(n - keep + 1, keepdim=True)[0], keep * scores.numel() // n
    else:
        return torch.full_like(scores, keep > 0, dtype=torch.bool)
    marks = scores >= lowest
    if marks.count_nonzero().item() == wanted:  # nothing ties with the last one kept
        return marks
    order = scores.sort(dim=-1, descending=True, stable=True).indices
    first = (torch.arange(n, device=scores.device) < keep).expand_as(order)
    return torch.zeros_like(marks).scatter_(-1, order, first)


def top(scores: torch.Tensor, keep: int) -> torch.Tensor:
    """The `keep` highest scores' indices, ascending: [..., n] to [..., keep]. Of equals the first wins."""
    return best(scores, keep).nonzero()[:, -1].view(*scores.shape[:-1], min(keep, scores.shape[-1]))


def first_picks(view: View, keep: int, picks: Callable[[], Iterator[torch.Tensor]]) -> torch.Tensor:
    """The first `keep` picks of a greedy choice, [batch, keep] in the order picked.

    The choice goes on only as far as somebody asks, and all budgets that see the same tokens share it.

    Args:
        picks: starts the choice, which yields an index per image, [batch], n times; neither may depend on `keep`.
    """
    found, rest = view.memo.once("picks", lambda: (list[torch.Tensor](), picks()))
    found.extend(islice(rest, max(0, keep - len(found))))
    return torch.stack(found[:keep], 1) if keep else view.tokens.new_zeros(len(view.tokens), 0, dtype=torch.long)


def select(tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Tokens [batch, n, dim] at places [batch, k]: [batch, k, dim]."""
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[-1]))


def cosines(points: torch.Tensor) -> torch.Tensor:
    """Of every two points of an image, in float32: [batch, n, dim] to [batch, n, n]."""
    unit = torch.nn.functional.normalize(points.float(), dim=-1)
    return unit @ unit.mT


def spread_out(points: torch.Tensor) -> Iterator[torch.Tensor]:
    """Greedy max-min diversity under cosine distance, of [batch, n, dim]: all indices, in the order picked.

    The first pick is the point that is farthest from its nearest neighbour; every next one is the point farthest from
    the nearest point picked so far. The lowest index wins a tie, and no index is picked twice, duplicates included.
    """
    size, n, _ = points.shape
    distance = 1 - cosines(points)
    rows = torch.arange(size, device=points.device)
    # the smallest is each point itself
    lonely = distance.topk(2, dim=1, largest=False).values[:, 1] if n > 1 else distance[:, 0]
    nearest, taken = torch.full_like(lonely, torch.inf), torch.zeros_like(lonely)
    for step in range(n):
        yield (pick := (nearest + taken if step else lonely).argmax(-1))
        taken[rows, pick] = -torch.inf
        nearest = torch.minimum(nearest, distance[rows, pick])


def absorb(
    scores: torch.Tensor, metric: torch.Tensor, dominant: int, contextual: int, *, pool: int | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best tokens stay, and of the rest evenly spaced targets absorb those most like them (VisionZip, 2412.04467).

    A target becomes itself plus the mean of the tokens that join it: a sum, about twice as long as an average.

    Args:
        scores: [batch, n] what makes a token dominant.
        metric: [batch, n, d] what likeness (cosine) is measured on.
        dominant, contextual: tokens that stay, and targets; n together at most.
        pool: only so many of the best of the rest take part, ordered by score; default all of them, in raster order.

    Returns:
        groups, weights: [batch, n] as `Reduction.merge(normalize=False)` takes them: dominant tokens in raster order,
            then targets; -1 for tokens that nobody absorbs.
        anchor: [batch, dominant + contextual] the dominant tokens and the targets.
    """
    size, n = scores.shape
    ranked = scores.sort(dim=-1, descending=True, stable=True).indices
    kept, rest = ranked[:, :dominant].sort(dim=-1).values, ranked[:, dominant:]
    rest = rest.sort(dim=-1).values if pool is None else rest[:, : max(pool, contextual)]
    groups = torch.full((size, n), -1, dtype=torch.long, device=scores.device)
    weights = torch.ones(size, n, device=scores.device)
    groups.scatter_(1, kept, torch.arange(dominant, device=scores.device).expand(size, -1))
    if not contextual:
        return groups, weights, kept
    unit = torch.nn.functional.normalize(metric.float(), dim=-1)
    unit = select(unit, rest)
    places = torch.arange(contextual, device=scores.device) * (rest.shape[1] // contextual)
    joined = (unit @ unit[:, places].mT).argmax(-1)
    others = torch.ones_like(joined, dtype=torch.float32)
    others[:, places] = 0
    members = torch.zeros(size, contextual, device=scores.device).scatter_add_(1, joined, others)
    share = 1 / members.clamp(min=1).gather(1, joined)
    joined[:, places], share[:, places] = torch.arange(contextual, device=scores.device), 1.0
    groups.scatter_(1, rest, joined + dominant)
    weights.scatter_(1, rest, share)
    return groups, weights, torch.cat([kept, rest[:, places]], 1)


def behind_class_token(view: View, groups: torch.Tensor, weights: torch.Tensor, anchor: torch.Tensor) -> Reduction:
    """What `absorb` returns for patches, as a reduction of patches and a class token, last in, that leaves first; of
    patches alone where the view has none."""
    if view.class_index is None:
        return Reduction.merge(groups, weights, anchor=anchor, normalize=False, position="renumber")
    size, n = groups.shape
    last = groups.new_full((size, 1), n)
    groups = torch.cat([torch.where(groups < 0, -1, groups + 1), torch.zeros_like(last)], 1)
    weights, anchor = torch.cat([weights, weights.new_ones(size, 1)], 1), torch.cat([last, anchor], 1)
    return Reduction.merge(groups, weights, anchor=anchor, normalize=False, position="renumber")


def absorb_neighbours(
    scores: torch.Tensor, metric: torch.Tensor, centres: torch.Tensor, counts: torch.Tensor, neighbours: int = 32
) -> Reduction:
    """Every centre takes in its nearest others by their scores, and one more row takes in what is no centre (PruMerge).

    A centre's row is itself plus the sum of its `neighbours` nearest (cosine), other centres included, times their
    scores, unnormalised; the last row is the sum of all that are no centres, times theirs.

    Args:
        scores: [batch, n]; metric: [batch, n, d].
        centres: [batch, k] distinct indices in the order of their rows, of which the first `counts` [batch] are used.
    """
    size, n = scores.shape
    device, width = scores.device, int(counts.max())
    centres, used = centres[:, :width], torch.arange(width, device=device) < counts[:, None]
    unit = torch.nn.functional.normalize(metric, dim=-1)
    near = select(unit, centres) @ unit.mT
    near = near.scatter(2, centres[..., None], -torch.inf).topk(min(neighbours, n - 1), dim=-1).indices
    weights = torch.zeros(size, width + 1, n, device=device)
    taken = scores[:, None].expand(-1, width, -1).gather(2, near)
    weights[:, :width].scatter_(2, near, taken).scatter_(2, centres[..., None], 1.0)
    weights[:, :width].masked_fill_(~used[..., None], 0.0)
    free = torch.ones_like(scores).scatter_add_(1, centres, -used.to(scores.dtype))
    weights[torch.arange(size, device=device), counts] = scores * free
    batch, row, source = weights.nonzero(as_tuple=True)
    anchor = torch.full((size, width + 1), -1, dtype=torch.long, device=device)
    anchor[:, :width] = torch.where(used, centres, -1)
    anchor[torch.arange(size, device=device), counts] = (scores * free).argmax(-1)
    return Reduction(n, counts.cpu() + 1, batch, row, source, weights[batch, row, source], anchor, "renumber")


def dpp_map(kernel: torch.Tensor) -> Iterator[torch.Tensor]:
    """Greedy maximum a posteriori choice of a determinantal point process, by incremental Cholesky (arXiv 1709.05135).

    Each pick is the item whose squared volume beyond those picked, its residual, is largest. The lowest index wins a
    tie. An item with less than 1e-5 of its own length left lies in the span of those picked as far as float32 can tell:
    such items come last, the one with the largest diagonal entry first.

    Args:
        kernel: [batch, n, n] symmetric, positive semidefinite.

    Yields:
        All indices, [batch] at a time, in the order picked.
    """
    size, n, _ = kernel.shape
    kernel = kernel.float()
    rows = torch.arange(size, device=kernel.device)
    residual = kernel.diagonal(dim1=1, dim2=2).clone()
    least, last = 1e-5 * residual, residual - residual.amax(-1, keepdim=True) - 1
    factor = torch.empty_like(kernel)
    for step in range(n):
        free = residual > least
        yield (pick := torch.where(free, residual, last).argmax(-1))
        seen = factor[:, :step]
        row = kernel[rows, pick] - (seen[rows, :, pick][:, None] @ seen)[:, 0]
        # what lies in the span of those picked takes nothing from the others
        row /= torch.where(free[rows, pick], residual[rows, pick].sqrt(), torch.inf)[:, None]
        factor[:, step] = row
        residual -= row.square()
        residual[rows, pick] = last[rows, pick] = -torch.inf


def fit_grid(grid: tuple[int, int], keep: int) -> tuple[int, int]:
    """The largest grid of at most `keep` cells with the shape of `grid` (at least one cell): a square stays square."""
    rows, columns = grid
    for height in range(rows, 0, -1):
        width = max(1, height * columns // rows)
        if height * width <= keep:
            return height, width
    return 1, 1


def rotate(tokens: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of queries or keys, [..., n, d]; channel i turns with channel i + d/2."""
    first, second = tokens.chunk(2, -1)
    return tokens * cos + torch.cat([-second, first], -1) * sin


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
