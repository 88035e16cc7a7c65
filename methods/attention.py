"""What attention says of tokens: readings of it that methods rank by."""

from __future__ import annotations

from math import sqrt

import torch

from ..harness.contracts import View


def one_head(view: View) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of the last vision layer as PruMerge reads it: all heads as one (arXiv 2403.15388).

    Of `class_query@-1` [batch, heads, d] and `keys@-1` [batch, heads, patches + 1, d], heads concatenated: the class
    token's row after the softmax, without its own entry, [batch, patches], and keys of patches [batch, patches, dim].
    """
    query, keys = view["class_query@-1"].float().flatten(1), view["keys@-1"].float().transpose(1, 2).flatten(2)
    logits = torch.einsum("bc,bnc->bn", query, keys) / query.shape[1] ** 0.5
    return logits.softmax(-1)[:, 1:], keys[:, 1:]


def outliers(scores: torch.Tensor) -> torch.Tensor:
    """How many of [batch, n] lie more than 1.5 interquartile ranges above the third quartile, as PruMerge counts them.

    The authors turn the count into a share and that back into a count, which may lose one to rounding; so here.
    """
    n = scores.shape[1]
    low, high = scores.quantile(torch.tensor([0.25, 0.75], device=scores.device), dim=1)
    found = (scores > (high + 1.5 * (high - low))[:, None]).sum(1)
    return torch.tensor([int(n * (count / n)) for count in found.tolist()], device=scores.device)


def page_rank(queries: torch.Tensor, keys: torch.Tensor, visible: torch.Tensor | None = None) -> torch.Tensor:
    """How much attention reaches each token by way of others: [batch, heads, length, d] to [batch, length].

    The root mean square of `walk` over heads, one of which is in memory at a time. `visible` [batch, length] is False
    for tokens that no token may attend to.
    """
    heads, length, dim = queries.shape[1:]
    ahead = torch.ones(length, length, dtype=torch.bool, device=queries.device).triu(1)
    hidden = ahead if visible is None else ahead | ~visible[:, None]
    squares = torch.zeros((), device=queries.device)
    for head in range(heads):
        key = keys[:, head * keys.shape[1] // heads]
        logits = queries[:, head].float() @ key.float().mT / dim**0.5
        squares = squares + walk(logits.masked_fill(hidden, -torch.inf)).square()
    return (squares / heads).sqrt()


def walk(logits: torch.Tensor, temperature: float = 0.1, steps: int = 5) -> torch.Tensor:
    """Where a uniform start gets by `steps` of a softmax over each row: [..., length, length] to [..., length]."""
    moves = (logits / temperature).softmax(-1)
    share = moves.new_full(logits.shape[:-1], 1 / logits.shape[-1])[..., None, :]
    for _ in range(steps):
        share = share @ moves
    return share[..., 0, :]


def standing(rank: torch.Tensor, places: torch.Tensor, visible: torch.Tensor | None = None) -> torch.Tensor:
    """How many tokens of the prompt come before each of those at `places` [batch, n], by `rank` [batch, length].

    Text comes first, what is not visible last. Ranks of tokens that hardly anything attends to are so small that their
    squares are zero in float32; the order of such equals is that of the sort in the code, over the whole prompt.
    """
    text = torch.ones_like(rank, dtype=torch.bool).scatter_(1, places, False)
    sorted_by = rank.masked_fill(text, torch.inf)
    if visible is not None:
        sorted_by = sorted_by.masked_fill(~visible, -1)
    return sorted_by.argsort(dim=-1, descending=True).argsort(dim=-1).gather(1, places)


def find_raters(visual: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Which words rate: [batch, m, dim] and [batch, t, dim] at the LLM's door to a mask [batch, t]."""
    share = (visual.float() @ text.float().mT).softmax(-1).mean(1)
    above = share > share.mean(-1, keepdim=True)
    return above | ~above.any(-1, keepdim=True)


def rate(attention: torch.Tensor, raters: torch.Tensor, heads: int | None = None) -> torch.Tensor:
    """Scores [batch, n] of visual tokens: the mean of raters' rows over heads, or over those of the largest sum."""
    weight = raters / raters.sum(-1, keepdim=True)
    scores = (attention * weight[:, None, :, None]).sum(2)
    if heads is not None and heads < scores.shape[1]:
        chosen = scores.sum(-1).topk(heads).indices
        scores = scores.take_along_dim(chosen[..., None], 1)
    return scores.mean(1)


def rotated_ones(distance: torch.Tensor, dim: int, theta: float) -> torch.Tensor:
    """Inner products of vectors of ones after rotary embedding, places apart by `distance`, over sqrt(dim)."""
    frequency = theta ** (-torch.arange(dim // 2, device=distance.device) / (dim // 2))
    return 2 * (distance[..., None] * frequency).cos().sum(-1) / sqrt(dim)


def attended(attention: torch.Tensor, groups: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """The most attended tokens of every group: attention [batch, heads, t, n], groups [batch, n] and how many of each
    to keep [batch, groups], to [batch, n] True where a token stays."""
    order = attention.amax((1, 2)).sort(dim=-1, descending=True, stable=True).indices
    order = order.gather(1, groups.gather(1, order).sort(dim=-1, stable=True).indices)
    sizes = torch.nn.functional.one_hot(groups, counts.shape[1]).sum(1)
    sorted_groups = groups.gather(1, order)
    rank = torch.arange(groups.shape[1], device=groups.device) - (sizes.cumsum(1) - sizes).gather(1, sorted_groups)
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(1, order, rank < counts.gather(1, sorted_groups))
