"""Calls a compressor for a batch of images, holds it to its promise, and remembers where every token came from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from ..contracts import Compressor, ModelShape, Reduction, Stage, View

BudgetKind = Literal["exact", "at_most", "adaptive"]


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


class Calls:
    """The calls of one compressor for one batch.

    Attributes:
        names: one per image, in batch order.
        grid: rows and columns of the raster that tokens are counted in.
        resized: the raster is that of a smaller picture (a pixel stage).
    """

    def __init__(
        self, compressor: Compressor, names: Sequence[ImageName], grid: tuple[int, int], *, seed: int, kind: BudgetKind,
        device: torch.device, resized: bool = False, shape: ModelShape | None = None,
    ) -> None:  # fmt: skip
        self.compressor, self.names, self.grid, self.kind = compressor, tuple(names), grid, kind
        self.resized, self._shape = resized, shape
        self._generators = [name.generator(seed) for name in names]
        full = grid[0] * grid[1]
        self._origin = [torch.arange(full, device=device) for _ in names]
        self._sizes = [torch.ones(full, device=device) for _ in names]
        self._steps: list[list[tuple[Stage, Reduction, int]]] = [[] for _ in names]

    def groups(self, lengths: Sequence[int]) -> list[list[int]]:
        """Image numbers with equal token counts, which share one view."""
        found: dict[int, list[int]] = {}
        for image, length in enumerate(lengths):
            found.setdefault(length, []).append(image)
        return list(found.values())

    def reduce(
        self, stage: Stage, images: Sequence[int], tokens: torch.Tensor, signals: Mapping[str, torch.Tensor],
        *, class_index: int | None = None,
    ) -> Reduction:  # fmt: skip
        """One call for `images`, whose tokens are [images, n, dim].

        Raises:
            BrokenPromiseError: another number of rows than asked for, rows of other images, tokens that do not exist.
        """
        origin = torch.stack([self._with_class(self._origin[i], class_index, -1) for i in images])
        sizes = torch.stack([self._with_class(self._sizes[i], class_index, 1) for i in images])
        view = View(
            tokens, self.grid, stage.place, stage.layer, sizes, origin, signals,
            tuple(self._generators[i] for i in images), class_index, shape=self._shape,
        )  # fmt: skip
        reduction = self.compressor.reduce(view, stage.keep)
        # In the encoder the class token flows on beside the tokens that are counted; elsewhere it is one of them.
        beside = int(stage.place == "encoder" and class_index is not None)
        self._check(stage, images, tokens, reduction, class_index)
        singles = torch.zeros_like(reduction.anchor).index_put_(
            (reduction.batch, reduction.row), torch.ones_like(reduction.row), accumulate=True
        )
        anchored = origin.gather(1, reduction.anchor.clamp(min=0))
        moved, grown = torch.where(singles == 1, anchored, -1), reduction.sizes(sizes)
        for place, image in enumerate(images):
            rows = int(reduction.counts[place])
            self._origin[image], self._sizes[image] = moved[place, beside:rows], grown[place, beside:rows]
            self._steps[image].append((stage, reduction, place))
        return reduction

    def _with_class(self, values: torch.Tensor, class_index: int | None, value: int) -> torch.Tensor:
        if class_index is None:
            return values
        return torch.cat([values[:class_index], values.new_tensor([value]), values[class_index:]])

    def _check(
        self, stage: Stage, images: Sequence[int], tokens: torch.Tensor, reduction: Reduction, class_index: int | None
    ) -> None:
        asked = stage.keep + int(stage.place == "encoder" and class_index is not None)
        name = getattr(self.compressor, "name", type(self.compressor).__name__)
        where = f"{name} at {stage.place}" + (f" layer {stage.layer}" if stage.layer else "")
        if len(reduction.counts) != len(images) or reduction.sources != tokens.shape[1]:
            raise BrokenPromiseError(
                f"{where} returned a reduction of {len(reduction.counts)} images with {reduction.sources} tokens "
                f"for {len(images)} with {tokens.shape[1]}"
            )
        if (
            len(reduction.source)
            and not 0 <= int(reduction.source.min()) <= int(reduction.source.max()) < tokens.shape[1]
        ):
            raise BrokenPromiseError(f"{where} named a token that does not exist: there are {tokens.shape[1]}")
        if (
            stage.place == "encoder"
            and class_index is not None
            and not bool((reduction.anchor[:, 0] == class_index).all())
        ):
            raise BrokenPromiseError(f"{where} must return the class token as the first row")
        for image, got in zip(images, reduction.counts.tolist(), strict=True):
            if (self.kind == "exact" and got != asked) or (self.kind == "at_most" and got > asked):
                name = self.names[image]
                raise BrokenPromiseError(
                    f"{where} was asked for {asked} tokens of picture {name.number} of sample {name.sample} "
                    f"and returned {got}"
                )

    def kept(self, images: Sequence[int]) -> tuple[list[int] | list[list[int]], ...]:
        """What the images of one sample kept, an entry per cut, in the raster of the sample's images one after another.

        A selection is a list of indices, a merge a list of lists (-1 stands for a class token). All layers of an
        encoder method make one entry, its last partition. A pixel stage's entry is the whole raster of the smaller
        picture, which later entries are counted in.
        """
        full = self.grid[0] * self.grid[1]
        entries = zip(*(self._entries(image, number * full) for number, image in enumerate(images)), strict=True)
        joined = [[row for rows in entry for row in rows] for entry in entries]
        return tuple([row[0] for row in e] if all(len(row) == 1 for row in e) else e for e in joined)

    def _entries(self, image: int, offset: int) -> list[list[list[int]]]:
        """Per cut, the raster places that every kept token of an image stands for."""
        members = [[offset + place] for place in range(self.grid[0] * self.grid[1])]
        found = [("pixel", members)] if self.resized else []
        for stage, reduction, number in self._steps[image]:
            inside = stage.place == "encoder"
            extra = [[-1]] * (reduction.sources - len(members))  # the class token, where it is among the sources
            sources = extra + members if inside else members + extra
            rows = [row if isinstance(row, list) else [row] for row in reduction.describe(number)]
            members = [sorted({member for source in row for member in sources[source]}) for row in rows]
            if inside:
                members = members[len(extra) :]
                if found and found[-1][0] == "encoder":
                    found.pop()
            found.append((stage.place, members))
        return [entry for _, entry in found]
