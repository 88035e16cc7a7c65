"""The prompt as one layer of the LLM sees it, and what a cut makes of it: which slots stay, at which positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from ..contracts import Reduction
from ..schedule import Cut
from .abilities import TOKEN_AXIS, kind
from .calls import BrokenPromiseError, Calls, Grid
from .data import SEPARATOR


@dataclass(frozen=True)
class Span:
    """The sequence as one layer sees it; dropped tokens sink to the left and become padding.

    Attributes:
        visual: [batch, n] the image of the batch that each slot belongs to, -1 for text and padding, `SEPARATOR` for
            visual tokens of no image.
        valid: [batch, n] False for padding.
        hidden: [batch, n] True for visual tokens that are computed on, but attended to by none.
        position: [..., batch, n] rotary positions (one row, or three for M-RoPE).
        held: [places, ..., batch, n] all of them, where tokens stand at several places at once.
        shift: [..., batch, 1] how far a new token's position lies behind the place that the prompt would give it.
        apart: do slots of an image stand apart, with others of the sample between them?
        owner: the batch row of every image.
        behind: per batch row, the text tokens behind its last image.
    """

    visual: torch.Tensor
    valid: torch.Tensor
    hidden: torch.Tensor
    position: torch.Tensor
    shift: torch.Tensor
    apart: bool
    owner: tuple[int, ...]
    behind: tuple[int, ...]
    held: torch.Tensor | None = None

    def slots(self) -> list[tuple[int, torch.Tensor]]:
        """For every image its batch row and the slots of its tokens that are not hidden, in order."""
        shown = self.visual.masked_fill(self.hidden, -1)
        return [(row, (shown[row] == image).nonzero()[:, 0]) for image, row in enumerate(self.owner)]

    @property
    def visible(self) -> torch.Tensor:
        """[batch, n] False for padding and what is hidden: the keys that later tokens attend to."""
        return self.valid & ~self.hidden

    def counts(self) -> torch.Tensor:
        """[batch] visual tokens of each sample, separators and hidden ones included."""
        return (self.valid & (self.visual != -1)).sum(1)

    def cut(self, kept: Mapping[int, Seats], renumber: bool) -> tuple[torch.Tensor, Span]:
        """Keep some slots of every image, with new positions, all text, and the separators of samples that lose no
        token.

        Args:
            kept: per image what is left.
            renumber: make the positions of the whole prompt contiguous again, where a position is one number.

        Returns:
            The slots of this span that the next one consists of, [batch, m], and that span.
        """
        keep = self.valid & (self.visual < 0)
        position = self.position.clone()
        left = [(row, slots, kept[image]) for image, (row, slots) in enumerate(self.slots())]
        for row in {row for row, slots, seats in left if len(seats.slots) < len(slots)}:
            keep[row] &= self.visual[row] != SEPARATOR
        for row, _, seats in left:
            keep[row, seats.slots], position[..., row, seats.slots] = True, seats.position
        width = int(keep.sum(1).max())
        order = torch.sort(keep.int(), dim=1, stable=True).indices[:, -width:]
        valid, visual = keep.gather(1, order), self.visual.gather(1, order)
        moved = position.gather(-1, order.expand(*position.shape[:-1], width))
        shift = self.shift
        if renumber and moved.ndim == 2:
            contiguous = counted(valid)
            shift = shift + moved[..., -1:] - contiguous[..., -1:]
            moved = contiguous
        hidden = torch.zeros_like(valid)
        cut = replace(
            self, visual=visual.masked_fill(~valid, -1), valid=valid, hidden=hidden, position=moved, shift=shift
        )
        return order, cut


class Seats(NamedTuple):
    """Where the tokens that are left of one image stand.

    Attributes:
        slots: [count] of the span, in order.
        position: [..., count] rotary positions.
    """

    slots: torch.Tensor
    position: torch.Tensor


def reduce_span(
    span: Span, cut: Cut, calls: Calls, tokens: Sequence[torch.Tensor],
    signals: Mapping[str, Sequence[torch.Tensor]], *, class_last: bool = False, width: int | None = None,
) -> tuple[torch.Tensor, Span, list[torch.Tensor], list[torch.Tensor]]:  # fmt: skip
    """Reduce the tokens of every image ([n, dim] each), and the span with them.

    Args:
        class_last: the last token of every image is a class token.
        width: the compressor sees the first so many numbers of a token, and the rest runs along; default all.

    Returns:
        As `Span.cut`, the reduced tokens of every image, and the slots of the old span that they take.

    Raises:
        Refusal: see `_called`.
    """
    slots = span.slots()
    kept = {i: Seats(places, span.position[..., row, places]) for i, (row, places) in enumerate(slots)}
    reduced = {i: tokens[i][: len(places)] for i, (_, places) in enumerate(slots)}
    renumber = False
    for rows, stacked, reduction, counts in _called(cut, calls, tokens, signals, class_last=class_last, width=width):
        renumber = renumber or _renumbers(reduction)
        out = reduction.apply(stacked)
        for number, images in enumerate(rows):
            places = torch.cat([slots[i][1] for i in images])
            total = sum(counts[number])
            position = _positions(span.position[..., slots[images[0]][0], :], places, reduction, number, total)
            start = 0
            for i, count in zip(images, counts[number], strict=True):
                own = slots[i][1]
                if count > len(own):
                    raise BrokenPromiseError(f"{count} tokens were returned for a picture of {len(own)}")
                end = start + count
                seats = own[:count]
                if span.apart:
                    seats = _seats(own, places[reduction.anchor[number, start:end].clamp(max=len(places) - 1)])
                reduced[i], kept[i] = out[number, start:end], Seats(seats, position[..., start:end])
                start = end
    order, shorter = span.cut(kept, renumber)
    return order, shorter, [reduced[i] for i in range(len(tokens))], [kept[i].slots for i in range(len(tokens))]


def _seats(slots: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """The slots of an image that its tokens take, in order: where they stood, and for such as stood in one slot, or in
    none, the first free ones."""
    taken = torch.isin(slots, anchors)
    free = (~taken).nonzero()[:, 0]
    taken[free[: len(anchors) - int(taken.sum())]] = True
    return slots[taken]


def hide_in_span(
    span: Span, cut: Cut, calls: Calls, tokens: Sequence[torch.Tensor], signals: Mapping[str, Sequence[torch.Tensor]]
) -> Span:
    """The span in which all visual tokens are hidden but those that the compressor keeps, or is not shown; separators
    as in `Span.cut`."""
    slots, shown = span.slots(), torch.zeros_like(span.hidden)
    for image, (row, places) in enumerate(slots):
        shown[row, places] = image not in cut.stages
    for rows, _, reduction, counts in _called(cut, calls, tokens, signals):
        for number, images in enumerate(rows):
            places = torch.cat([slots[i][1] for i in images])
            shown[slots[images[0]][0], places[reduction.anchor[number, : sum(counts[number])]]] = True
    hidden = (span.visual >= 0) & ~shown
    separators = (span.visual == SEPARATOR) & hidden.any(1, keepdim=True)
    return replace(span, hidden=hidden | separators)


def _called(
    cut: Cut, calls: Calls, tokens: Sequence[torch.Tensor], signals: Mapping[str, Sequence[torch.Tensor]], *,
    class_last: bool = False, width: int | None = None,
) -> Iterator[tuple[list[tuple[int, ...]], torch.Tensor, Reduction, list[tuple[int, ...]]]]:  # fmt: skip
    """The compressor's calls for all images that it cuts and that have tokens left: the images of every row, what it
    saw of them, what it made of it, and how many tokens it left of each image."""
    seen, joint = [], cut.stage.joint
    # A sample that passes by as a whole is as if the cut were not there.
    cutting = {i for images in calls.samples if not cut.stages.keys().isdisjoint(images) for i in images}
    for images in calls.samples if joint else [(image,) for image in range(len(tokens))]:
        if any(i in cut.stages for i in images) and any(len(tokens[i]) for i in images):
            # one whose budget is all that it has is seen beside others, and keeps as many as it has
            keep = sum(cut.stages[i].keep if i in cut.stages else len(tokens[i]) for i in images)
            seen.append(_Seen(images, tuple(calls.full[i] for i in images), keep, tokens, signals))
        elif images[0] in cutting:  # the budget is all that there is, or an earlier cut left nothing
            calls.pass_by(cut.stage, images)
    for group in _alike(seen):
        stacked = torch.stack([one.tokens for one in group])
        read = {name: torch.stack([one.signals[name] for one in group]) for name in signals}
        rows = [one.images for one in group]
        class_index = stacked.shape[1] - 1 if class_last else None
        stage, shown = replace(cut.stage, keep=group[0].keep), stacked[..., :width].contiguous()
        yield rows, stacked, *calls.reduce(stage, rows, shown, read, class_index=class_index)


class _Seen:
    """What one row of a view is made of: the tokens and signals of one image, or of all images of a sample."""

    def __init__(
        self, images: tuple[int, ...], grids: tuple[Grid, ...], keep: int, tokens: Sequence[torch.Tensor],
        signals: Mapping[str, Sequence[torch.Tensor]],
    ) -> None:  # fmt: skip
        self.images, self.grids, self.keep = images, grids, keep
        self.tokens = torch.cat([tokens[i] for i in images])
        self.signals = {name: _joined(name, [values[i] for i in images]) for name, values in signals.items()}

    @property
    def shapes(self) -> tuple[torch.Size, ...]:
        return (self.tokens.shape, *(self.signals[name].shape for name in sorted(self.signals)))


def _joined(name: str, values: Sequence[torch.Tensor]) -> torch.Tensor:
    """A signal of several images of one sample, one after another; of one image, as it is."""
    axis = TOKEN_AXIS[kind(name)]
    if axis is not None:
        return torch.cat(list(values), axis)
    return torch.stack(list(values)) if kind(name) == "class_query" else values[0]


def _alike(seen: Sequence[_Seen]) -> list[list[_Seen]]:
    """Rows with equal grids and shapes share one view."""
    found: dict[object, list[_Seen]] = {}
    for one in seen:
        found.setdefault((one.grids, one.keep, one.shapes), []).append(one)
    return list(found.values())


def _renumbers(reduction: Reduction) -> bool:
    return isinstance(reduction.position, str) and reduction.position == "renumber"


def _positions(
    position: torch.Tensor, places: torch.Tensor, reduction: Reduction, number: int, count: int
) -> torch.Tensor:
    """Positions of the rows of image `number`, given those of its sample's prompt, [..., n]."""
    if isinstance(reduction.position, torch.Tensor):
        return reduction.position[number, :count].to(position)
    anchor = reduction.anchor[number, :count].clamp(max=len(places) - 1)  # a class token stands at the end
    return position[..., places[anchor]]


def counted(valid: torch.Tensor) -> torch.Tensor:
    """Positions from 0 of left-padded prompts, [batch, n]."""
    return (valid.long().cumsum(1) - 1).clamp(min=0)


def whole_span(visual: torch.Tensor, valid: torch.Tensor, position: torch.Tensor | None = None) -> Span:
    """The span of a left-padded prompt; `visual` and `valid` are [batch, n], positions default to `counted`."""
    position = counted(valid) if position is None else position
    owner = [int((visual == image).any(1).nonzero()[0, 0]) for image in range(int(visual.max()) + 1)]
    behind = [visual.shape[1] - 1 - int((row != -1).nonzero()[-1, 0]) for row in visual]
    hidden, shift = torch.zeros_like(valid), torch.zeros_like(position[..., -1:])
    images = [(visual[row] == image).nonzero()[:, 0] for image, row in enumerate(owner)]
    apart = any(int(slots[-1] - slots[0]) >= len(slots) for slots in images)
    return Span(visual, valid, hidden, position, shift, apart, tuple(owner), tuple(behind))


def settled(span: Span) -> Span:
    """A span after cuts in front of the LLM: what a new token's position is counted from."""
    return replace(span, shift=torch.zeros_like(span.shift))
