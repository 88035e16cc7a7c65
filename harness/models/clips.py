"""What the kin of LLaVA share that take clips: every frame goes through the tower by itself, at one resolution."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..contracts import Footage, Sample
from .anyres import Anyres
from .calls import Grid
from .data import Crop, Frame, Shown, Sight
from .llava import Llava, covered

if TYPE_CHECKING:
    from PIL.Image import Image


class Clips(Llava):
    """A clip's images are its frames. A smaller one, for `downsample`, is a smaller image of the processor's frame."""

    @abstractmethod
    def placed(self, frames: list[Frame]) -> Shown:
        """A clip of these frames, with the separators that the model puts among them."""

    def prompt(self, sample: Sample, images: int) -> str:
        if getattr(self.processor, "chat_template", None) or not self.shows_clip(sample):
            return super().prompt(sample, images)
        return f"USER: {self.video_token}\n{sample.question or ''} ASSISTANT:"

    def show_clip(self, prompt: str, frames: Sequence[Image], footage: Footage | None) -> tuple[torch.Tensor, Shown]:
        assert self.shape.frame is not None
        inputs: Mapping[str, torch.Tensor] = self.processor(  # type: ignore[operator]
            text=[prompt], videos=[list(frames)], do_sample_frames=False,
            add_special_tokens=not self._templated([prompt]), return_tensors="pt",
        )  # fmt: skip
        under = covered(frames[0].size, self.processor.video_processor)  # type: ignore[attr-defined]
        seen = [
            Frame(pixels, self.shape.frame, picture, under, frames=((number, picture),))
            for number, (pixels, picture) in enumerate(zip(inputs["pixel_values_videos"][0], frames, strict=True))
        ]
        return inputs["input_ids"][0], self.placed(seen)

    def patches_of(self, grid: Grid) -> Grid:
        """Rows and columns of patches that a frame's grid of visual tokens is made of."""
        return grid

    def shrink(self, crop: Crop, grid: Grid) -> torch.Tensor:
        """A frame's pixels, which are normalised already: resizing is linear in them."""
        if not isinstance(crop, Frame):
            return super().shrink(crop, grid)
        rows, columns = self.patches_of(grid)
        pixels = nn.functional.interpolate(
            crop.pixels[None].float(), (rows * self._patch, columns * self._patch), mode="bicubic", antialias=True
        )
        return pixels[0].to(crop.pixels.dtype)


def of_clip(crops: Sequence[Crop]) -> bool:
    """Are these the frames of clips?"""
    return bool(crops) and isinstance(crops[0], Frame)


class PooledClips(Clips, Anyres):
    """Of a frame's patches about 2 x 2 become one visual token: what the LLM gets is pooled, before the projector or
    behind it, and what methods read of patches is pooled alike."""

    @abstractmethod
    def pool(self, raster: torch.Tensor) -> torch.Tensor:
        """[..., rows, columns] of patches to rows and columns of visual tokens, as the model does it."""

    def patches_of(self, grid: Grid) -> Grid:
        return 2 * grid[0], 2 * grid[1]

    def _see_small(self, crops: Sequence[Crop]) -> Sight:
        if not of_clip(crops):
            return super()._see_small(crops)
        return self._joined(Llava.see(self, crops, resized=True).rows, crops)

    def _packed(self, rows: Sequence[torch.Tensor], crops: Sequence[Crop]) -> list[torch.Tensor]:
        """[patches, dim] of every frame, all encoded at one size, to [tokens, dim]; of pictures as for pictures."""
        if not of_clip(crops):
            return super()._packed(rows, crops)
        high, wide = (side // self._patch for side in crops[0].pixels.shape[-2:])
        raster = torch.stack(list(rows)).transpose(1, 2)
        return list(self.pool(raster.reshape(*raster.shape[:2], high, wide)).flatten(-2).transpose(1, 2))
