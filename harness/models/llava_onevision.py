"""The family `llava_onevision`: a SigLIP tower, and a picture as a whole and in up to 36 tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .anyres import Anyres
from .calls import Grid

if TYPE_CHECKING:
    import torch


class LlavaOnevision(Anyres):
    """LLaVA-OneVision on pictures; each of several pictures of a prompt is shown as a whole, without tiles.

    Where a raster of tiles is larger than `vision_aspect_ratio` allows (`anyres_max_9`: nine tiles), the model makes
    it smaller: tokens are then means of neighbours, each counts to the tile that it lies in, and what methods read of
    patches is made smaller alike.
    """

    family = "llava_onevision"
    architecture = "LlavaOnevisionForConditionalGeneration"

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
