"""The first half of a Llama attention layer, which cases of in-LLM methods are given as bare weights."""

from __future__ import annotations

from math import sqrt

import torch


def queries_and_keys(
    hidden: torch.Tensor, norm: torch.Tensor, wq: torch.Tensor, wk: torch.Tensor, heads: int, theta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states [n, dim] through RMSNorm, projections (out, in) and rotation by place: twice [heads, n, d]."""
    normed = norm * hidden * (hidden.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    n, dim = hidden.shape
    half = dim // heads // 2
    angle = torch.arange(n)[:, None] * theta ** (-torch.arange(half) / half)
    cos, sin = angle.cos(), angle.sin()

    def rotate(weight: torch.Tensor) -> torch.Tensor:
        split = (normed @ weight.mT).view(n, heads, 2, half).transpose(0, 1)
        first, second = split[:, :, 0], split[:, :, 1]
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    return rotate(wq), rotate(wk)


def attention(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Causal attention after the softmax, [heads, n, n]."""
    logits = query @ key.mT / sqrt(query.shape[-1])
    ahead = torch.ones_like(logits[0], dtype=torch.bool).triu(1)
    return logits.masked_fill(ahead, -torch.inf).softmax(-1)
