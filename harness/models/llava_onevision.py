"""The family `llava_onevision`: a SigLIP tower, and a picture as a whole and in up to 36 tiles, or a clip."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..contracts import ModelShape
from .abilities import FamilyInfo, single_crops, with_clips
from .calls import Grid
from .clips import PooledClips
from .data import SEPARATOR, Frame, Shown

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class LlavaOnevision(PooledClips):
    """LLaVA-OneVision on pictures and clips; each of several pictures of a prompt is shown as a whole, without tiles.

    Where a raster of tiles is larger than `vision_aspect_ratio` allows (`anyres_max_9`: nine tiles), the model makes
    it smaller: tokens are then means of neighbours, each counts to the tile that it lies in, and what methods read of
    patches is made smaller alike.

    Of a frame the model resizes the projected raster, bilinearly, to half its side, rounded up: 27 x 27 to 14 x 14.
    What methods read of its patches is resized alike. One newline ends a clip.
    """

    family = "llava_onevision"
    architecture = "LlavaOnevisionForConditionalGeneration"

    @classmethod
    def describe(cls, config: PretrainedConfig) -> tuple[ModelShape, FamilyInfo]:
        shape, info = super().describe(config)
        rows, columns = shape.grid
        return replace(shape, frame=(math.ceil(rows / 2), math.ceil(columns / 2))), with_clips(info, single_crops(info))

    def _complete(self) -> None:
        super()._complete()
        self.processor.num_image_tokens = self.shape.tokens  # type: ignore[attr-defined]
        self.processor.vision_aspect_ratio = self.model.config.vision_aspect_ratio  # type: ignore

    def tiled(self, pictures: int) -> bool:
        return pictures == 1

    def pack(self, values: torch.Tensor, size: Grid, newline: torch.Tensor | None) -> torch.Tensor:
        packed, _ = self._core.pack_image_features(
            [values], [size], image_newline=newline,
            vision_aspect_ratio=self.model.config.vision_aspect_ratio,  # type: ignore[union-attr]
        )  # fmt: skip
        found: torch.Tensor = packed[0]
        return found

    def placed(self, frames: list[Frame]) -> Shown:
        order = torch.arange(len(frames)).repeat_interleave(frames[0].tokens)
        crops = (*frames[:-1], replace(frames[-1], separators=1))
        return Shown(crops, torch.cat([order, torch.tensor([SEPARATOR])]))

    def pool(self, raster: torch.Tensor) -> torch.Tensor:
        size = [math.ceil(side / 2) for side in raster.shape[-2:]]
        return nn.functional.interpolate(raster, size=size, mode="bilinear")
