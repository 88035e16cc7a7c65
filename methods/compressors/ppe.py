"""PPE: cluster tokens by density, and let each cluster keep places of its members."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...harness.contracts import Reduction, View
from ...harness.registry import compressor
from ..ops import dpc_knn


@compressor(
    "ppe",
    places=("projector",),
    merges=True,
    keeps_order=False,
    paper="arXiv 2510.22936",
    repository="MouxiaoHuang/PPE",
    verified="selection",
)
def ppe(view: View, keep: int) -> Reduction:
    """Density-peak clusters of one image (Chat-UniVi's), each a plain mean that stands at the place of its last member.

    Paper: PPE: Positional Preservation Embedding for Token Compression in Multimodal Large Language Models, arXiv
    2510.22936; authors' repository MouxiaoHuang/PPE. `view.tokens` [batch, n, dim] are the projected tokens. Density
    looks at the 5 nearest tokens (3 at most where there are fewer than 5 clusters), with noise against ties. Clusters
    go on in the order of their score, as in the code; positions are those of the full prompt.

    Departs from the code: a token stands at one place instead of 8. The code lets a cluster keep K positions, of its
    members from the last to the first and round again (`held_places`, for any merging), each turning its own share of
    the rotary channels (`sectioned_turns`); a `Reduction` says one position per row. The member order is that of a
    stable sort, which the code leaves to chance. Cascades at later LLM layers, and fine-tuning, are left out.
    """
    n = view.tokens.shape[1]
    neighbours = 5 if keep >= 5 else min(3, max(keep // 2, 1))
    groups, _ = dpc_knn(view.tokens, keep, neighbours, view.noise(n))
    merged = Reduction.merge(groups)
    return Reduction.merge(groups, anchor=held_places(merged, 1)[..., 0], position="keep")


def held_places(merged: Reduction, count: int) -> torch.Tensor:
    """Which `count` sources give every row of a merge its positions: [batch, rows, count].

    The members of a row from the last to the first, and round again where there are fewer than `count`.
    """
    size, rows = merged.anchor.shape
    member = torch.zeros(size, rows, merged.sources, dtype=torch.bool, device=merged.source.device)
    member[merged.batch, merged.row, merged.source] = True
    last_first = member.flip(-1).int().sort(dim=-1, descending=True, stable=True).indices
    turn = torch.arange(count, device=member.device) % member.sum(-1, keepdim=True).clamp(min=1)
    return merged.sources - 1 - last_first.gather(-1, turn)


def sectioned_turns(
    positions: torch.Tensor, sections: Sequence[int], theta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotary tables, cos and sin [n, d], of tokens that stand at several positions, [len(sections), n], at once.

    Section s of the channels (`sections` sum to d/2, in the order of frequency) turns by position s of a token.
    """
    half = sum(sections)
    frequency = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    mine = positions.repeat_interleave(torch.tensor(sections), 0)
    turns = (mine.T * frequency).repeat(1, 2)
    return turns.cos().float(), turns.sin().float()
