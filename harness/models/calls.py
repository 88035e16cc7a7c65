"""Calls a compressor for a batch of images, holds it to its promise, and remembers where every token came from."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal, TypeVar

import torch

from ..contracts import Compressor, Memo, ModelShape, Reduction, Stage, View
from .evidence import resampled

T = TypeVar("T")
BudgetKind = Literal["exact", "at_most", "adaptive"]
Grid = tuple[int, int]
"""Rows and columns."""


class BrokenPromiseError(Exception):
    """A method returned something else than it was asked for; the sample counts as failed for it."""


@dataclass(frozen=True)
class ImageName:
    """An image of a batch: its sample's id, and its number within the sample."""

    sample: str
    number: int

    def generator(self, seed: int) -> torch.Generator:
        """Draws that depend on the seed and this image alone, on every device alike."""
        digest = hashlib.sha256(f"{seed}\0{self.sample}\0{self.number}".encode()).digest()
        generator: torch.Generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        return generator


@dataclass(frozen=True)
class _Step:
    """One row of one reduction: of a single image, or of all images of a sample together."""

    stage: Stage
    images: tuple[int, ...]
    reduction: Reduction
    number: int
    counts: tuple[int, ...]

    @property
    def inside(self) -> bool:
        return self.stage.place == "encoder"

    def split(self, rows: Sequence[T] | torch.Tensor) -> list[Any]:
        """The rows that each image has of its own, a class token of the encoder left out."""
        start, found = len(rows) - sum(self.counts), []
        for count in self.counts:
            found.append(rows[start : start + count])
            start += count
        return found


class Calls:
    """The calls of one compressor for one batch.

    Attributes:
        names: one per image, in batch order.
        samples: for every row of the batch, the numbers of its images, those that show a whole picture first.
        full: per image, rows and columns of visual tokens without a method.
        grids: per image, of the raster that tokens are counted in: that of a smaller picture behind a pixel stage.
    """

    def __init__(
        self, compressor: Compressor, names: Sequence[ImageName], full: Sequence[Grid], *, seed: int, kind: BudgetKind,
        device: torch.device, grids: Sequence[Grid] | None = None, shape: ModelShape | None = None,
        memo: Memo | None = None, parts: Collection[int] = (),
    ) -> None:  # fmt: skip
        """
        Args:
            grids: default `full`.
            memo: shared with calls for the same encoded images that differ in their budget alone.
            parts: images that show a part of a picture.
        """
        self.compressor, self.names, self.full, self.kind = compressor, tuple(names), tuple(full), kind
        self.grids, self._shape, self._memo = tuple(grids or full), shape, memo or Memo()
        of_sample: dict[str, list[int]] = {}
        for image, name in enumerate(names):
            of_sample.setdefault(name.sample, []).append(image)
        self.samples = [tuple(sorted(images, key=lambda i: i in parts)) for images in of_sample.values()]
        self._generators = [name.generator(seed) for name in names]
        self._origin = [torch.arange(rows * columns, device=device) for rows, columns in self.grids]
        self._sizes = [torch.ones(rows * columns, device=device) for rows, columns in self.grids]
        self._steps: list[_Step] = []

    def reduce(
        self, stage: Stage, rows: Sequence[tuple[int, ...]], tokens: torch.Tensor, signals: Mapping[str, torch.Tensor],
        *, class_index: int | None = None,
    ) -> tuple[Reduction, list[tuple[int, ...]]]:  # fmt: skip
        """One call of the compressor.

        Args:
            stage: its `keep` is what is left of all images of a row.
            rows: for each of the batch rows that the compressor sees, its images: one, or all of a sample. Rows have
                the same grids.
            tokens: [rows, n, dim], of the images of a row one after another.

        Returns:
            The reduction, and for each row how many tokens are left of each of its images; a class token that flows on
            beside the tokens of the encoder is not counted.

        Raises:
            BrokenPromiseError: another number of tokens than asked for, rows of other images, tokens that do not exist,
                or images out of order.
        """
        origin = torch.stack([self._of(self._origin, images, class_index, -1) for images in rows])
        sizes = torch.stack([self._of(self._sizes, images, class_index, 1) for images in rows])
        image = torch.stack([self._numbers(images) for images in rows]) if stage.joint else None
        first = rows[0][0]
        view = View(
            tokens, self.grids[first], stage.place, stage.layer, sizes, origin, signals,
            tuple(self._generators[images[0]] for images in rows), class_index, image,
            self._shape and self._shape.at(self.full[first]), self._shared(stage, rows),
        )  # fmt: skip
        reduction = self.compressor.reduce(view, stage.keep)
        if not isinstance(reduction, Reduction):
            raise BrokenPromiseError(f"{self._where(stage)} returned a {type(reduction).__name__}, not a Reduction")
        # In the encoder the class token flows on beside the tokens that are counted; elsewhere it is one of them.
        beside = int(stage.place == "encoder" and class_index is not None)
        self._check(stage, rows, tokens, reduction, class_index)
        counts = [self._counts(stage, images, reduction, n, beside) for n, images in enumerate(rows)]
        moved, grown = reduction.origins(origin), reduction.sizes(sizes)
        for number, images in enumerate(rows):
            step = _Step(stage, images, reduction, number, counts[number])
            self._steps.append(step)
            end = int(reduction.counts[number])
            origins, grew = step.split(moved[number, :end]), step.split(grown[number, :end])
            for place, own in enumerate(images):
                self._origin[own], self._sizes[own] = origins[place], grew[place]
        return reduction, counts

    def pass_by(self, stage: Stage, images: Sequence[int]) -> None:
        """Remember that images were not shown to the compressor: they have no token, or keep all that they have."""
        for image in images:
            left = len(self._origin[image])
            self._steps.append(_Step(stage, (image,), Reduction.identity(1, left), 0, (left,)))

    def _of(
        self, values: Sequence[torch.Tensor], images: tuple[int, ...], class_index: int | None, value: int
    ) -> torch.Tensor:
        found = torch.cat([values[i] for i in images])
        if class_index is None:
            return found
        return torch.cat([found[:class_index], found.new_tensor([value]), found[class_index:]])

    def _shared(self, stage: Stage, rows: Sequence[tuple[int, ...]]) -> Memo:
        """What other budgets share where they see the same: at the first cut behind the tower."""
        cut = {image for step in self._steps for image in step.images}
        if stage.place != "projector" or not cut.isdisjoint(image for images in rows for image in images):
            return Memo()
        return self._memo.once((replace(stage, keep=0), tuple(rows)), Memo)

    def _numbers(self, images: tuple[int, ...]) -> torch.Tensor:
        """[n] the number, within its sample, of the image that each token of a row belongs to."""
        lengths = torch.tensor([len(self._origin[i]) for i in images])
        numbers = torch.tensor([self.names[i].number for i in images])
        return numbers.repeat_interleave(lengths).to(self._origin[0].device)

    def _counts(
        self, stage: Stage, images: tuple[int, ...], reduction: Reduction, number: int, beside: int
    ) -> tuple[int, ...]:
        count = int(reduction.counts[number]) - beside
        if len(images) == 1:
            return (count,)
        ends = torch.tensor([len(self._origin[i]) for i in images]).cumsum(0)
        owner = torch.searchsorted(ends, reduction.anchor[number, :count].cpu(), right=True)
        if bool((owner.diff() < 0).any()):
            raise BrokenPromiseError(
                f"{self._where(stage)} returned tokens of sample {self.names[images[0]].sample} that are not in the "
                "order of its images"
            )
        return tuple(torch.bincount(owner, minlength=len(images)).tolist())

    def _where(self, stage: Stage) -> str:
        name = getattr(self.compressor, "name", type(self.compressor).__name__)
        return f"{name} at {stage.place}" + (f" layer {stage.layer}" if stage.layer else "")

    def _check(
        self, stage: Stage, rows: Sequence[tuple[int, ...]], tokens: torch.Tensor, reduction: Reduction,
        class_index: int | None,
    ) -> None:  # fmt: skip
        where, n = self._where(stage), tokens.shape[1]
        if len(reduction.counts) != len(rows) or reduction.sources != n:
            raise BrokenPromiseError(
                f"{where} returned a reduction of {len(reduction.counts)} images with {reduction.sources} tokens "
                f"for {len(rows)} with {n}"
            )
        low, high = torch.stack(reduction.source.aminmax()).tolist() if len(reduction.source) else (0, 0)
        if low < 0 or high >= n:
            raise BrokenPromiseError(f"{where} named a token that does not exist: there are {n}")
        if (
            stage.place == "encoder"
            and class_index is not None
            and not bool((reduction.anchor[:, 0] == class_index).all())
        ):
            raise BrokenPromiseError(f"{where} must return the class token as the first row")
        if stage.masks and not reduction.is_selection:
            raise BrokenPromiseError(f"{where} masks tokens, and merged some of those it kept")
        for images, got in zip(rows, reduction.counts.tolist(), strict=True):
            asked = stage.keep + int(stage.place == "encoder" and class_index is not None)
            if (self.kind == "exact" and got != asked) or (self.kind == "at_most" and got > asked):
                name = self.names[images[0]]
                whose = "the pictures" if stage.joint else f"picture {name.number}"
                raise BrokenPromiseError(
                    f"{where} was asked for {asked} tokens of {whose} of sample {name.sample} and returned {got}"
                )

    def left(self, images: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Per image of a sample, the largest weight, at most 1, of every patch of its full raster in any token:
        [patches] at the LLM's door, and in its last layer."""
        if any(len(step.images) > 1 for step in self._steps_of(images)):
            return self._left(tuple(images))
        return [self._left((image,))[0] for image in images]

    def _left(self, images: tuple[int, ...]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        own = [resampled(self.grids[i], self.full[i]) for i in images]
        patches = [len(weight.T) for weight in own]
        wide: torch.Tensor = torch.block_diag(*own)  # type: ignore[no-untyped-call]
        weights = dict(zip(images, torch.split(wide, [len(weight) for weight in own]), strict=True))
        entering = dict(weights)
        for step in self._steps_of(images):
            made, number, own = step.reduction, step.number, [weights[i] for i in step.images]
            mine = made.batch == number
            matrix = torch.zeros(int(made.counts[number]), made.sources)
            matrix.index_put_(
                (made.row[mine].cpu(), made.source[mine].cpu()), made.weight[mine].float().cpu(), accumulate=True
            )
            extra = torch.zeros(made.sources - sum(map(len, own)), wide.shape[1])  # a class token
            rows = matrix @ torch.cat([extra, *own] if step.inside else [*own, extra])
            weights |= dict(zip(step.images, step.split(rows), strict=True))
            if step.stage.place != "decoder":
                entering |= {image: weights[image] for image in step.images}
        pairs = zip(_largest(entering, patches), _largest(weights, patches), strict=True)
        return list(pairs)

    def _steps_of(self, images: Sequence[int]) -> list[_Step]:
        return [step for step in self._steps if set(step.images) <= set(images)]

    def kept(self, images: Sequence[int]) -> tuple[list[int] | list[list[int]], ...]:
        """What the images of one sample kept, an entry per cut, in the raster of the sample's images one after another.

        A selection is a list of indices, a merge a list of lists (-1 stands for a class token). All layers of an
        encoder method make one entry, its last partition. A pixel stage's entry is the whole raster of the smaller
        picture, which later entries are counted in.
        """
        lengths = [self.grids[i][0] * self.grids[i][1] for i in images]
        members = {
            i: [[place] for place in range(end - n, end)]
            for i, n, end in zip(images, lengths, accumulate(lengths), strict=True)
        }
        resized = any(self.grids[i] != self.full[i] for i in images)
        entries = {i: [("pixel", rows)] if resized else [] for i, rows in members.items()}
        for step in self._steps_of(images):
            own = [row for image in step.images for row in members[image]]
            extra = [[-1]] * (step.reduction.sources - len(own))  # the class token, where it is among the sources
            sources = extra + own if step.inside else own + extra
            rows = [row if isinstance(row, list) else [row] for row in step.reduction.describe(step.number)]
            merged = [sorted({member for source in row for member in sources[source]}) for row in rows]
            for image, part in zip(step.images, step.split(merged), strict=True):
                if step.inside and entries[image] and entries[image][-1][0] == "encoder":
                    entries[image].pop()
                members[image] = part
                entries[image].append((step.stage.place, part))
        cuts = zip(*entries.values(), strict=True)
        joined = [[row for _, rows in cut for row in rows] for cut in cuts]
        return tuple([row[0] for row in e] if all(len(row) == 1 for row in e) else e for e in joined)

    def members(self, images: Sequence[int]) -> list[list[int]]:
        """For every token that is left of the images of one sample, the patches that were merged into it, in the raster
        of all images one after another."""
        patches = sum(self.grids[i][0] * self.grids[i][1] for i in images)
        rows: Sequence[Any] = (self.kept(images) or (list(range(patches)),))[-1]
        listed = (row if isinstance(row, list) else [row] for row in rows)
        return [[place for place in row if place >= 0] for row in listed]  # a class token is no patch

    def stand_ins(self, images: Sequence[int]) -> torch.Tensor:
        """For every patch of all images of one sample, [patches], which of the tokens that are left stands for it.

        Raises:
            BrokenPromiseError: a patch that no token stands for, or more than one.
        """
        patches = sum(self.grids[i][0] * self.grids[i][1] for i in images)
        found, times = torch.zeros(patches, dtype=torch.long), torch.zeros(patches)
        for token, own in enumerate(self.members(images)):
            found[own] = token
            times[own] += 1
        if bool((times != 1).any()):
            name = getattr(self.compressor, "name", type(self.compressor).__name__)
            raise BrokenPromiseError(
                f"{name} stands tokens at the places of all that they were merged from, but left a patch of sample "
                f"{self.names[images[0]].sample} to no token, or to several"
            )
        return found


def _largest(weights: Mapping[int, torch.Tensor], patches: list[int]) -> Sequence[torch.Tensor]:
    """Per image, with so many patches, the largest weight of each in any token of the sample."""
    rows = torch.cat(list(weights.values())).abs()
    highest = rows.amax(0).clamp(max=1) if len(rows) else torch.zeros(rows.shape[1])
    return torch.split(highest, patches)
