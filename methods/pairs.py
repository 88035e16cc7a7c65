"""Merging alike tokens by pairs, layer by layer: bipartite soft matching, and how many merge where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import pi
from typing import Literal

import torch

from ..harness.contracts import ModelShape, Reduction, Stage, View

Form = Literal["half", "energy", "text"]
Ramp = Literal["constant", "linear", "reverse_linear"]


def pair_alike(metric: torch.Tensor, merges: int, protected: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """One round of bipartite soft matching (ToMe, arXiv 2210.09461): which tokens to merge into which.

    Tokens at even places look for the most similar (cosine) token at an odd place; the `merges` closest pairs merge.

    Args:
        metric: [batch, n, d] what similarity is measured on.
        merges: pairs to merge, at most half of the unprotected tokens (more are clamped).
        protected: leading tokens that never merge: 1 for a class token, 2 with a distillation token behind it.

    Returns:
        groups: [batch, n] the output row of every token. Rows: unmerged tokens of even places (in order of place if
            a token is protected, else from the least to the most similar in the order of merging), then odd places;
            two protected tokens come first.
        anchor: [batch, n - merges] the token that gives each row its place.
    """
    size, n, _ = metric.shape
    device = metric.device
    merges = max(0, min(merges, (n - protected) // 2))
    everyone = torch.arange(n, device=device).expand(size, n)
    if merges == 0:
        return everyone, everyone
    unit = torch.nn.functional.normalize(metric, dim=-1)
    scores = unit[:, ::2] @ unit[:, 1::2].mT
    if protected >= 1:
        scores[:, 0] = -torch.inf
    if protected >= 2:
        scores[:, :, 0] = -torch.inf
    best, partner = scores.max(-1)
    order = best.sort(dim=-1, descending=True, stable=True).indices
    merged, rest = order[:, :merges], order[:, merges:]
    if protected:
        rest = rest.sort(dim=-1).values
    odd = everyone[:, 1::2]
    anchor = torch.cat([rest * 2, odd], 1)
    if protected >= 2:  # class, distillation, the rest of the even places, the rest of the odd ones
        anchor = torch.cat([anchor[:, :1], odd[:, :1], rest[:, 1:] * 2, odd[:, 1:]], 1)
    place = torch.empty_like(everyone).scatter_(1, anchor, everyone[:, : n - merges].contiguous())
    target = 2 * partner.gather(1, merged) + 1
    return place.scatter(1, 2 * merged, place.gather(1, target)), anchor


def best_partners(metric: torch.Tensor, protected: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The best partner among odd places of every even place, and their cosine: both [batch, evens]."""
    unit = torch.nn.functional.normalize(metric, dim=-1)
    scores = unit[:, ::2] @ unit[:, 1::2].mT
    if protected:
        scores[:, 0] = -torch.inf
    best = scores.max(-1)
    return best.values, best.indices


def pair_above(
    metric: torch.Tensor, threshold: torch.Tensor | float, protected: int, most: int | None = None,
    by_place: bool | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """One round of bipartite soft matching by a threshold (DyMU, arXiv 2504.17040): all pairs above it merge, but no
    more than half of the tokens.

    Args:
        metric: [batch, n, d]. threshold: a similarity, or [batch, 1].
        protected: 1 for a class token in front.
        most: merges of one image at most.
        by_place: unmerged tokens of even places stay in raster order; else the most similar comes first. Default: with
            a class token, as in the authors' path for single images.

    Returns:
        groups: [batch, n] the output row of every token. anchor: [batch, most rows], -1 behind a shorter image's end.
    """
    best, partner = best_partners(metric, protected)
    size, n = metric.shape[:2]
    order = best.sort(dim=-1, descending=True, stable=True).indices
    limit = (n - protected) // 2 if most is None else min(most, (n - protected) // 2)
    merging = (best > threshold) & (order.argsort(-1) < limit)
    if protected if by_place is None else by_place:
        order = torch.arange(best.shape[1], device=metric.device).expand_as(order)
    stays = ~merging.gather(1, order)
    even = torch.zeros_like(order).scatter(1, order, stays.cumsum(1) - 1)
    odd = stays.sum(1, keepdim=True) + torch.arange(n // 2, device=metric.device)
    groups = torch.empty(size, n, dtype=torch.long, device=metric.device)
    groups[:, 1::2] = odd
    groups[:, ::2] = torch.where(merging, odd.gather(1, partner), even)
    own = torch.ones_like(groups, dtype=torch.bool)
    own[:, ::2] = ~merging
    image, token = own.nonzero(as_tuple=True)
    anchor = groups.new_full((size, int(own.sum(1).max())), -1)
    anchor[image, groups[image, token]] = token
    return groups, anchor


def merge_schedule(layers: int, merges: int | Sequence[int], inflect: float = 0.0) -> list[int]:
    """Tokens to merge in each layer (ToMe): a constant, a linear ramp, or a list that is padded with zeros.

    The ramp runs from `int(merges * (1 - inflect))` to its mirror about `merges`; -1 merges most in the first layers.
    """
    if not isinstance(merges, int):
        return [*merges, *[0] * (layers - len(merges))][:layers]
    first = int(merges * (1 - inflect))
    step = (2 * merges - 2 * first) / (layers - 1) if layers > 1 else 0.0
    return [int(first + step * layer) for layer in range(layers)]


def even_merges(shape: ModelShape, inflect: float = 0.0) -> Iterator[list[int]]:
    """Schedules of ever more merges in the layers that the LLM's features pass."""
    layers = shape.feature_layers or shape.vision_layers
    return (merge_schedule(layers, merges, inflect) for merges in range(shape.tokens + 1))


def merge_stages(
    keep: int, shape: ModelShape, schedules: Iterable[Sequence[int]], *, proportional: bool = True
) -> tuple[Stage, ...]:
    """Cuts of a tower that merges pairs, down to `keep` tokens of one image at the LLM's door.

    Merges follow the first of `schedules`, each a number per layer, that gets there; the last merging layer merges what
    is missing, and none merges more than half of its tokens.
    """
    keep = max(keep, 1)
    planned: list[Stage] = []
    for schedule in schedules:
        left, planned = shape.tokens, []
        for layer, wanted in enumerate(schedule):
            merged = min(wanted, left // 2, left - keep)
            if merged > 0:
                left -= merged
                planned.append(Stage("encoder", left, layer=layer, reads=("keys",), proportional=proportional))
        if left == keep:
            break
    return tuple(planned)


def merge_pairs(view: View, keep: int) -> Reduction:
    """Merge the tokens of a vision layer down to `keep` and a class token: `pair_alike` by keys averaged over heads.

    A merged token is the mean of its members, weighted by the patches that they stand for.
    """
    protected = 0 if view.class_index is None else 1
    groups, anchor = pair_alike(view["keys"].float().mean(1), view.tokens.shape[1] - protected - keep, protected)
    return Reduction.merge(groups, view.sizes, anchor=anchor, position="renumber")


def pair_by_energy(
    metric: torch.Tensor, merges: int, margin: float, form: Form, alpha: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which tokens to merge into which: [batch, n, d] to the output row of every token and the anchor of every row.

    `half` splits all tokens by the parity of their rank, `energy` only the 2 `merges` of the highest energy, and `text`
    splits those into a higher and a lower half, with a Gaussian energy.
    """
    merges = max(0, min(merges, metric.shape[1] // 2))
    unit = torch.nn.functional.normalize(metric, dim=-1)
    alike = unit @ unit.mT
    if form == "text":
        width = 1 - margin
        energy = (torch.exp(-((1 - alike) ** 2) / (2 * width**2)) / (width * (2 * pi) ** 0.5)).mean(-1)
    else:
        energy = torch.nn.functional.elu(alike - margin, alpha).mean(-1)
    ranked = energy.sort(dim=-1, descending=True, stable=True).indices
    if form == "half":
        groups, anchor = pair_alike(unit.take_along_dim(ranked[..., None], 1), merges)
        return torch.empty_like(ranked).scatter_(1, ranked, groups), ranked.gather(1, anchor)
    chosen = ranked[:, : 2 * merges]
    sources, targets = (chosen[:, ::2], chosen[:, 1::2]) if form == "energy" else chosen.chunk(2, 1)
    anchor = torch.cat([ranked[:, 2 * merges :], targets], 1)
    groups = torch.zeros_like(ranked).scatter_(1, anchor, torch.arange(anchor.shape[1]).to(ranked).expand_as(anchor))
    if merges:
        merging, kept = (unit.take_along_dim(places[..., None], 1) for places in (sources, targets))
        nearest = (merging @ kept.mT).argmax(-1)
        groups.scatter_(1, sources, groups.gather(1, targets.gather(1, nearest)))
    return groups, anchor


def share_out(total: int, layers: int, schedule: Ramp) -> list[int]:
    """How many of `total` merges each layer does: as many everywhere, or ever fewer, or ever more."""
    if schedule == "constant":
        return [total // layers + int(layer < total % layers) for layer in range(layers)]
    first = 2 * total // layers
    found: list[int] = []
    for layer in range(layers):
        found.append(min(int(first - layer * (first / layers)), total - sum(found)))
    found[0] += total - sum(found)  # a ramp of small numbers falls short
    return found if schedule == "linear" else found[::-1]


def find_threshold(similarities: torch.Tensor, merges: int) -> torch.Tensor:
    """The similarity of the first edge that is not merged where `merges` of all edges of a set are, at least 0."""
    ranked = similarities.flatten().sort(descending=True).values
    return ranked[min(merges, len(ranked) - 1)].clamp(min=0)


def merge_rounds(tokens: torch.Tensor, keep: int) -> Reduction:
    """Rounds that halve [batch, n, dim] tokens, the last one as far as is needed."""
    whole = Reduction.identity(*tokens.shape[:2])
    while tokens.shape[1] > keep:
        groups, anchor = pair_alike(tokens, tokens.shape[1] - keep)
        merged = Reduction.merge(groups, anchor=anchor, position="renumber")
        whole, tokens = whole.then(merged), merged.apply(tokens)
    return whole
