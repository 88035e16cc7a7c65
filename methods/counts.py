"""How many tokens each part gets: groups, frames, clusters and even samples that share a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil

import torch


def largest_share(count: Callable[[float], int], keep: int, least: float = 0.0) -> float:
    """The largest share from `least` to 1 whose count is at most `keep`, by bisection; counts grow with shares."""
    low, high = least, 1.0
    if count(high) <= keep:
        return high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if count(middle) <= keep else (low, middle)
    return low


def spread(sizes: Sequence[int], keep: int, few: int) -> list[int]:
    """How many tokens are left of each group: one share of all, whose leftover goes to those that rounding cost most.

    Groups of at most `few` stay whole while the share is a half or more.
    """

    def left(size: int, share: float) -> int:
        return size if size <= few and share >= 0.5 else int(size * share)

    if sum(sizes) <= keep:
        return list(sizes)
    share = largest_share(lambda share: sum(left(size, share) for size in sizes), keep)
    counts = [left(size, share) for size in sizes]
    lost = sorted(range(len(sizes)), key=lambda i: counts[i] - share * sizes[i])
    while sum(counts) < keep:
        for i in lost:
            if counts[i] < sizes[i] and sum(counts) < keep:
                counts[i] += 1
    return counts


def proportional(sizes: torch.Tensor, keep: int) -> torch.Tensor:
    """`keep` shared out by sizes, [batch, groups] to the same; what rounding leaves over goes to those that lost most.

    `keep` is at most the sum of the sizes of every row.
    """
    shares, n = sizes * keep, sizes.sum(1, keepdim=True)
    counts, lost = shares // n, (shares % n).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return counts + (lost < keep - counts.sum(1, keepdim=True))


def strided(length: int, shared: int, room: int, stride: int) -> list[int]:
    """How many tokens each of `length` frames holds, where each pays `shared` and every `stride`-th from the end holds.

    No frame holds more than its `room`: the stride is less where it would.
    """
    for apart in range(stride, 0, -1):
        count = shared * length // ceil(length / apart)
        if count <= room:
            break
    return [count if behind % apart == 0 else 0 for behind in range(length - 1, -1, -1)]


def clustered(n: int, whole: int) -> tuple[int, int]:
    """Of `n` tokens with `whole` kept: how many of the others are recycled, and into how many clusters."""
    recycled = int((n - whole) * 0.3) + 1
    return recycled, recycled // 10 + 1


def keep_whole(n: int, keep: int) -> int:
    """The most tokens to keep so that with the clusters of the others `keep` of `n` are left.

    One token fewer may leave as many, with one cluster more (34 or 35 of 64 leave 36): `clustering.recycle` is told
    the number.
    """
    return next((w for w in range(min(keep, n) - 1, 0, -1) if w + clustered(n, w)[1] <= keep), 0)


def spacing_of(share: float) -> int:
    """The distance of sampled tokens where attention picks a share; 0 samples none."""
    return max(1, int(int(1 / share) / 3)) if share > 0 else 0


def sampled(n: int, spacing: torch.Tensor) -> torch.Tensor:
    """Marks of the sampled tokens, [..., n]; as released, the last token is never sampled."""
    place = torch.arange(n, device=spacing.device)
    return (place % spacing.clamp(min=1)[..., None] == 0) & (place < n - 1) & (spacing > 0)[..., None]


def within(rank: torch.Tensor, room: int) -> tuple[torch.Tensor, torch.Tensor]:
    """How many tokens attention picks and the spacing of the sample, [batch] each, for `room` tokens together.

    Args:
        rank: [batch, n] place of each token in the order of attention.
    """
    n = rank.shape[1]
    fewest = {spacing_of(k / n): k for k in range(n, 0, -1)}  # the smallest share of every spacing
    steps = torch.tensor([0, *fewest], device=rank.device)
    picked = torch.tensor([0, *fewest.values()], device=rank.device)
    marks = sampled(n, steps)
    totals = picked + (marks & (rank[:, None] >= picked[:, None])).sum(-1)
    choice = torch.where(totals <= room, picked, -1).argmax(-1)
    chosen = marks[choice]
    beside = torch.zeros_like(rank).scatter_(1, rank, (~chosen).long()).cumsum(-1)  # in order of attention
    return (beside <= room - chosen.sum(-1, keepdim=True)).sum(-1), steps[choice]
