"""What methods for clips share: frames of a view, and clips of their own shapes in one reduction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from ..harness.contracts import Reduction, View


def frames_of(view: View) -> int:
    """How many images each row of a view holds."""
    return 1 if view.image is None else int(view.image.max()) + 1


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


def grouped(clips: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> Reduction:
    """A reduction of clips that were merged one by one, with positions renumbered.

    Args:
        clips: of each the row [n] of every source, -1 for none, its weight [n], and the rows' anchors [rows].
    """
    groups, weights, anchors = zip(*clips, strict=True)
    anchor = pad_sequence(list(anchors), batch_first=True, padding_value=-1)
    return Reduction.merge(
        torch.stack(groups), torch.stack(weights), anchor=anchor, normalize=False, position="renumber"
    )
