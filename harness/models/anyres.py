"""What LLaVA-NeXT and LLaVA-OneVision share: a picture is a small whole of it, and tiles of a larger one.

The tiles' patches are joined to one raster, from which the margins that the processor added are cut away, and every row
of which ends with a newline. All of that is done by the model's own `pack_image_features`: on patches' coordinates, it
tells which tile every visual token comes from.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..contracts import ModelShape, UserError
from .abilities import FamilyInfo, in_crops, kind
from .calls import Grid
from .data import SEPARATOR, Crop, Encoded, Shown, Sight
from .llava import Llava

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PretrainedConfig

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Tile(Crop):
    """The whole of a picture, or a tile of it.

    Attributes:
        size: height and width of the picture.
        visible: top, left, bottom and right, in patches, of what is left of it without margins.
        sources: [tokens] for every visual token of the picture the number of the crop that it comes from.
    """

    size: Grid = (0, 0)
    visible: tuple[int, int, int, int] = (0, 0, 0, 0)
    sources: torch.Tensor | None = None


class Anyres(Llava):
    """A picture's images are its whole and, row by row, its tiles, each with the tokens that it has in the raster.

    Merging inside the tower is not served, since packing needs whole tiles. A smaller picture, for `downsample`, is
    a smaller image of each crop without its margins.
    """

    @classmethod
    def describe(cls, config: PretrainedConfig) -> tuple[ModelShape, FamilyInfo]:
        shape, info = super().describe(config)
        return replace(shape, crops=True, varies=True), in_crops(info)

    def __init__(self, model: nn.Module, processor: object, shape: ModelShape, info: FamilyInfo, revision: str) -> None:
        super().__init__(model, processor, shape, info, revision)
        self._core: Any = model.model

    @abstractmethod
    def pack(self, values: torch.Tensor, size: Grid, newline: torch.Tensor | None) -> torch.Tensor:
        """[crops, patches, dim] of a picture of that height and width to [tokens, dim], by the model's own code."""

    def tiled(self, pictures: int) -> bool:
        """Is each of so many pictures of a prompt shown in tiles, or only as a whole?"""
        return True

    # ------------------------------------------------------------------------------------------------------- preparing

    def tokenise(self, prompts: list[str], pictures: list[Image]) -> tuple[torch.Tensor, torch.Tensor, list[Shown]]:
        left = iter(pictures)
        own = [[next(left) for _ in range(prompt.count(self.image_token))] for prompt in prompts]
        inputs: Mapping[str, torch.Tensor] = self.processor(  # type: ignore[operator]
            text=prompts, images=own, padding=True, add_special_tokens=not self._templated(prompts),
            return_tensors="pt",
        )  # fmt: skip
        tiled = [self.tiled(len(of_prompt)) for of_prompt in own for _ in of_prompt]
        shown = [self.show(*each) for each in zip(inputs["pixel_values"], pictures, tiled, strict=True)]
        return inputs["input_ids"], inputs["attention_mask"], shown

    def show(self, pixels: torch.Tensor, picture: Image, tiled: bool = True) -> Shown:
        """A picture whose processor made these pixels, [crops, 3, side, side], the whole first."""
        size, (rows, columns) = (picture.size[1], picture.size[0]), self.shape.grid
        high, wide = self._tiles(size) if tiled else (0, 0)
        row, column = (part.flatten() for part in torch.meshgrid(torch.arange(high), torch.arange(wide), indexing="ij"))
        where = torch.stack([row, column], 1).float()[:, None].expand(-1, rows * columns, -1)
        newline = torch.full((2,), -1.0)
        packed = self.pack(torch.cat([torch.zeros(1, rows * columns, 2), where]), size, newline)[rows * columns :]
        ends = packed[:, 0] < 0
        # A token between two tiles, where the raster was made smaller, belongs to the nearer one.
        sources = torch.where(ends, SEPARATOR, (1 + packed[:, 0].round() * wide + packed[:, 1].round()).long())
        order = torch.cat([torch.zeros(rows * columns, dtype=torch.long), sources])
        if self._core.image_newline is None:
            order = order[order != SEPARATOR]
        whole = Tile(
            pixels[0], self.shape.grid, picture, self._whole(picture.size, tiled), True,
            int((order == SEPARATOR).sum()), size, (0, 0, rows, columns), order[order != SEPARATOR],
        )  # fmt: skip
        if not tiled:
            return Shown((whole,), order)
        raster = sources[~ends].view(int(ends.sum()), -1)
        seen = self._visible_of(size, (high, wide))
        tiles = [
            Tile(pixels[1 + i], *self._part(raster, 1 + i, picture), False, 0, size, visible)
            for i, visible in enumerate(seen)
        ]
        return Shown((whole, *tiles), order)

    def _tiles(self, size: Grid) -> Grid:
        from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

        config: Any = self.model.config
        found: Grid = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, config.vision_config.image_size)
        return found

    def _visible_of(self, size: Grid, tiles: Grid) -> list[tuple[int, int, int, int]]:
        """Of every tile; margins lie at two sides of the raster, equally wide."""
        from transformers.models.llava_next.modeling_llava_next import unpad_image

        rows, columns = self.shape.grid
        all_rows, all_columns = tiles[0] * rows, tiles[1] * columns
        left = unpad_image(torch.zeros(1, all_rows, all_columns), size).shape[1:]
        top, beside = (all_rows - left[0]) // 2, (all_columns - left[1]) // 2

        def within(number: int, length: int, whole: int, margin: int) -> tuple[int, int]:
            start = number * length
            return max(start, margin) - start, min(start + length, whole - margin) - start

        found = []
        for row in range(tiles[0]):
            for column in range(tiles[1]):
                up, down = within(row, rows, all_rows, top)
                west, east = within(column, columns, all_columns, beside)
                found.append((up, west, down, east))
        return found

    def _part(self, raster: torch.Tensor, number: int, picture: Image) -> tuple[Grid, Image, Box]:
        """A tile's grid, the picture, and the box of it that it shows; `raster` has the crop of every token."""
        own = (raster == number).nonzero()
        if not len(own):
            raise UserError(
                f"A picture of {picture.size[0]} x {picture.size[1]} pixels leaves one of its tiles to margins alone: "
                "crop it to a less extreme shape."
            )
        (top, left), (bottom, right) = own.amin(0).tolist(), (own.amax(0) + 1).tolist()
        across, down = picture.size[0] / raster.shape[1], picture.size[1] / raster.shape[0]
        return (bottom - top, right - left), picture, (left * across, top * down, right * across, bottom * down)

    def _whole(self, size: tuple[int, int], tiled: bool) -> Box:
        """What lies under the whole of a picture, which is squeezed to a square, or padded to one."""
        if tiled:
            return 0, 0, size[0], size[1]
        side, x, y = max(size) / 2, size[0] / 2, size[1] / 2
        return x - side, y - side, x + side, y + side

    def shrink(self, crop: Crop, grid: Grid) -> torch.Tensor:
        """A crop's pixels, which are normalised already: resizing is linear in them."""
        assert isinstance(crop, Tile)
        top, left, bottom, right = (edge * self._patch for edge in crop.visible)
        size = (grid[0] * self._patch, grid[1] * self._patch)
        pixels = crop.pixels[None, :, top:bottom, left:right].float()
        return nn.functional.interpolate(pixels, size, mode="bicubic", antialias=True)[0].to(crop.pixels.dtype)

    # --------------------------------------------------------------------------------------------------------- seeing

    def see(self, crops: Sequence[Crop], *, resized: bool) -> Sight:
        if resized:
            return self._see_small(crops)
        return self._joined(super().see(crops, resized=False).rows, crops)

    def _joined(self, rows: Sequence[torch.Tensor], crops: Sequence[Crop]) -> Sight:
        """What is seen of crops whose patches the tower returned, [class token and patches, dim] of each."""
        first = int(self.shape.class_token)
        patches = [own[first:] for own in rows]
        features = self._packed(patches, crops)

        def tokens() -> list[torch.Tensor]:
            projected = self.project(torch.cat(patches))
            return self._packed(torch.split(projected, len(patches[0])), crops)

        return Sight([torch.cat([own[:first], seen]) for own, seen in zip(rows, features, strict=True)], tokens)

    def _see_small(self, crops: Sequence[Crop]) -> Sight:
        """Crops of any size without margins, those of one size at once."""
        side = self.shape.grid[0] * self._patch
        small = [
            replace(crop, pixels=self.shrink(crop, crop.grid)) if crop.pixels.shape[-2:] == (side, side) else crop
            for crop in crops
        ]
        found: list[torch.Tensor] = [torch.empty(0)] * len(crops)
        for size in {crop.grid for crop in small}:
            numbers = [number for number, crop in enumerate(small) if crop.grid == size]
            seen = super().see([small[number] for number in numbers], resized=True)
            for number, rows in zip(numbers, seen.rows, strict=True):
                found[number] = rows
        return Sight(found)

    def _packed(self, rows: Sequence[torch.Tensor], crops: Sequence[Crop]) -> list[torch.Tensor]:
        """[patches, dim] of every crop, of whole pictures, to what the raster has of it, [tokens, dim]."""
        found = []
        starts = [number for number, crop in enumerate(crops) if crop.whole]
        for start, end in zip(starts, [*starts[1:], len(crops)], strict=True):
            whole = crops[start]
            assert isinstance(whole, Tile) and whole.sources is not None
            packed = self.pack(torch.stack(list(rows[start:end])), whole.size, None)
            sources = whole.sources.to(packed.device)
            found += [packed[sources == number] for number in range(end - start)]
        return found

    def separators(self, crops: Sequence[Crop], encoded: Encoded) -> list[torch.Tensor]:
        return [self._core.image_newline.expand(crop.separators, -1) for crop in crops]

    @contextmanager
    def listening(self, reads: frozenset[str], crops: Sequence[Crop]) -> Iterator[dict[str, Sequence[torch.Tensor]]]:
        with super().listening(reads, crops) as found:
            yield found
        for name, values in found.items():
            if kind(name) == "keys":
                found[name] = self._packed_keys(values, crops)
            elif kind(name) != "class_query":
                seen = self._packed([rows.T for rows in values], crops)
                found[name] = [rows.T for rows in seen]

    def _packed_keys(self, values: Sequence[torch.Tensor], crops: Sequence[Crop]) -> list[torch.Tensor]:
        """[heads, n, d] of every crop, a class token first, which stays."""
        first = int(self.shape.class_token)
        heads, _, dim = values[0].shape
        seen = self._packed([keys[:, first:].transpose(0, 1).flatten(1) for keys in values], crops)
        kept = [rows.view(-1, heads, dim).transpose(0, 1) for rows in seen]
        return [torch.cat([keys[:, :first], rest], 1) for keys, rest in zip(values, kept, strict=True)]
