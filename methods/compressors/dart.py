"""DART: after the first LLM layers, keep the visual tokens that duplicate a few pivots least."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...harness.contracts import ModelShape, Reduction, Stage, View
from ...harness.registry import compressor
from .. import parameters
from ..ops import best, select


@compressor(
    "dart",
    places=("decoder",),
    needs=("keys", "text_keys", "normed", "text_normed"),
    paper="arXiv 2502.11494",
    repository="ZichenWen1/DART",
    verified="selection",
)
@dataclass(frozen=True)
class Dart:
    """Keep a few visual pivots, and for every pivot of picture or text the visual tokens that are least like it.

    Paper: Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More, arXiv 2502.11494;
    authors' repository ZichenWen1/DART (read from the copy xqy1111111/DART). Pivots are the `pivots` visual tokens and
    `text_pivots` text tokens behind the picture whose `keys` [batch, heads, n, d] in layer `layer` - 1 have the largest
    L1 norm; likeness is the cosine of hidden states behind that layer, after the final norm (`normed`). Pivots are
    visited one after another, each takes an equal share of the tokens still left. Kept tokens stay in order and keep
    their positions. `layer` is 2 of 32, scaled to other depths, unless given.

    Departs from the code: `keep` is what is really kept, visual pivots included, while the authors' 128 keeps 132; what
    cannot be shared equally goes to the first pivots, so that any count is met. The code visits pivots in the order in
    which Python iterates a set of their places in the prompt, an accident that changes the result; here visual pivots
    come first, then text, the largest norm first. A text shorter than `text_pivots` gives all of its tokens.
    """

    layer: int | None = None
    pivots: int = 4
    text_pivots: int = 4

    def __post_init__(self) -> None:
        parameters.whole(self, "layer", "pivots")
        parameters.whole(self, "text_pivots", least=0)

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        layer = shape.scale(2, of=32) if self.layer is None else self.layer
        return (Stage("decoder", keep, layer=layer, reads=("keys", "text_keys", "normed", "text_normed")),)

    def reduce(self, view: View, keep: int) -> Reduction:
        visual, text = strongest(view["keys"], min(self.pivots, keep)), strongest(view["text_keys"], self.text_pivots)
        visited = torch.cat([select(view["normed"], visual), select(view["text_normed"], text)], 1)
        return Reduction.keep(unlike(view["normed"], visual, visited, keep), view.tokens.shape[1])


def strongest(keys: torch.Tensor, count: int) -> torch.Tensor:
    """Where the `count` keys of the largest L1 norm are, the largest first: [batch, heads, n, d] to [batch, count]."""
    return keys.float().abs().sum((1, 3)).sort(dim=-1, descending=True, stable=True).indices[:, :count]


def unlike(tokens: torch.Tensor, own: torch.Tensor, pivots: torch.Tensor, keep: int) -> torch.Tensor:
    """Of [batch, n, dim] tokens `own` [batch, p], and the others that `pivots` [batch, q, dim] are least like.

    Returns [batch, n] True at `keep` of them. Pivots are visited in their order.
    """
    unit = torch.nn.functional.normalize(tokens.float(), dim=-1)
    distance = -torch.nn.functional.normalize(pivots.float(), dim=-1) @ unit.mT
    taken = torch.zeros_like(tokens[..., 0], dtype=torch.bool).scatter_(1, own, True)
    share, more = divmod(keep - own.shape[1], max(pivots.shape[1], 1))
    for turn in range(pivots.shape[1]):
        taken |= best(distance[:, turn].masked_fill(taken, -torch.inf), share + (turn < more))
    return taken
