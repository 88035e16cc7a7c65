"""The family `llava_next_video`: LLaVA-NeXT-Video, which sees pictures as LLaVA-NeXT does, and clips frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ..contracts import ModelShape, UserError
from .abilities import FamilyInfo, single_crops, with_clips
from .clips import PooledClips, of_clip
from .data import Crop, Frame, Shown, Sight
from .llava_next import LlavaNext

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class LlavaNextVideo(PooledClips, LlavaNext):
    """LLaVA-NeXT-Video on pictures and clips: of a frame, means of 2 x 2 patches go into the projector.

    What methods read of a frame's patches are such means as well; the class token stays beside them, and enters no LLM.
    """

    family = "llava_next_video"
    architecture = "LlavaNextVideoForConditionalGeneration"

    @classmethod
    def describe(cls, config: PretrainedConfig) -> tuple[ModelShape, FamilyInfo]:
        shape, info = super().describe(config)
        rows, columns = shape.grid
        pool = (config.spatial_pool_mode, config.spatial_pool_stride)
        if pool != ("average", 2) or rows % 2:
            raise UserError(
                "The family llava_next_video makes means of 2 x 2 patches of a frame, and this model has "
                f"spatial_pool_mode {pool[0]!r} and spatial_pool_stride {pool[1]} for {rows} x {columns}."
            )
        return replace(shape, frame=(rows // 2, columns // 2)), with_clips(info, single_crops(info))

    def placed(self, frames: list[Frame]) -> Shown:
        return Shown(tuple(frames))

    def pool(self, raster: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self._core.vision_resampler.pool(raster)
        return pooled

    def _joined(self, rows: Sequence[torch.Tensor], crops: Sequence[Crop]) -> Sight:
        sight = super()._joined(rows, crops)
        return Sight(sight.rows) if of_clip(crops) else sight
