"""What methods for clips share: frames of a view, and clips of their own shapes in one reduction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from ..harness.contracts import Reduction, Refusal, View


def frames_of(view: View) -> int:
    """How many images each row of a view holds.

    Raises:
        Refusal: they are not of one size.
    """
    sizes = sizes_of(view)
    if len(set(sizes)) > 1:
        raise Refusal("takes the frames of a clip, or other pictures of one size, and these differ")
    return len(sizes)


def sizes_of(view: View) -> list[int]:
    """How many tokens each image of a row has, in order."""
    if view.image is None:
        return [view.tokens.shape[1]]
    sizes: list[int] = torch.unique_consecutive(view.image[0], return_counts=True)[1].tolist()
    return sizes


def clips_of(view: View) -> torch.Tensor:
    """The tokens of a view frame by frame, in float32: [samples, frames, n, dim]."""
    size, n, dim = view.tokens.shape
    frames = frames_of(view)
    return view.tokens.float().reshape(size, frames, n // frames, dim)


def taken_in(unit: torch.Tensor, anchors: torch.Tensor, pool: torch.Tensor, beta: float) -> torch.Tensor:
    """Weights [anchors, tokens] of anchors that take in the most alike tokens of a pool (FastVID).

    A row is w * anchor + (1 - w) * mean of its members, w the larger of 1 / (members + 1) and `beta`.

    Args:
        unit: [tokens, dim] at unit length. anchors, pool: indices.
    """
    nearest = (unit[pool] @ unit[anchors].T).argmax(1)
    member = torch.nn.functional.one_hot(nearest, len(anchors)).T.to(unit)
    count = member.sum(1, keepdim=True)
    own = (1 / (count + 1)).clamp(min=beta)
    weights = unit.new_zeros(len(anchors), len(unit))
    weights[:, pool] = (1 - own) * member / count.clamp(min=1)
    weights[torch.arange(len(anchors)), anchors] += own[:, 0]
    return weights


def mixed(clips: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Reduction:
    """A reduction whose rows keep the places of their anchors, and stand in that order.

    Args:
        clips: of each the weights [rows, n] of every source in every row, and the rows' anchors [rows].
    """
    orders = [anchors.argsort() for _, anchors in clips]
    weights = pad_sequence([w[o] for (w, _), o in zip(clips, orders, strict=True)], batch_first=True)
    anchors = [a[o] for (_, a), o in zip(clips, orders, strict=True)]
    batch, row, source = weights.nonzero(as_tuple=True)
    counts, anchor = torch.tensor([len(a) for a in anchors]), pad_sequence(anchors, batch_first=True, padding_value=-1)
    return Reduction(weights.shape[2], counts, batch, row, source, weights[batch, row, source], anchor)


class Rows:
    """The rows that one clip is merged into, in the order in which they are added.

    Attributes:
        groups, weights: [frames, n] the row that each token goes into, -1 for none, and what it weighs there.
        anchors: per call of `add`, the tokens that give the rows their places.
    """

    def __init__(self, clip: torch.Tensor) -> None:
        """For a clip [frames, n, dim]."""
        self.groups = torch.full(clip.shape[:2], -1, device=clip.device)
        self.weights = torch.ones(clip.shape[:2], device=clip.device)
        self.anchors: list[torch.Tensor] = []
        self._count = 0

    def add(
        self, frames: slice, places: torch.Tensor, members: torch.Tensor, weights: torch.Tensor | float,
        centres: torch.Tensor,
    ) -> None:  # fmt: skip
        """A row for each of `centres`, which are among the places [p] and stand in the first of the frames.

        Args:
            members: [p] which of these rows takes in what stands at a place, in all of the frames.
            weights: [p], or the same for all.
        """
        self.groups[frames, places], self.weights[frames, places] = members + self._count, weights
        self.anchors.append(frames.start * self.groups.shape[1] + places[centres])
        self._count += len(centres)


def grouped(clips: Sequence[Rows]) -> Reduction:
    """Clips that were merged one by one as one reduction, with positions renumbered."""
    groups, weights = torch.stack([c.groups for c in clips]), torch.stack([c.weights for c in clips])
    anchor = pad_sequence([torch.cat(c.anchors) for c in clips], batch_first=True, padding_value=-1)
    return Reduction.merge(groups.flatten(1), weights.flatten(1), anchor=anchor, normalize=False, position="renumber")
