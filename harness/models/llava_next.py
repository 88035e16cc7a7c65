"""The family `llava_next`: LLaVA-1.6, which sees a picture as a whole and in two to four tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .anyres import Anyres
from .calls import Grid

if TYPE_CHECKING:
    import torch


class LlavaNext(Anyres):
    """LLaVA-NeXT, which sees pictures; the budget is one of every crop, as in the authors' versions of VisionZip and
    HiPrune."""

    family = "llava_next"
    architecture = "LlavaNextForConditionalGeneration"

    def pack(self, values: torch.Tensor, size: Grid, newline: torch.Tensor | None) -> torch.Tensor:
        strategy = self.model.config.vision_feature_select_strategy  # type: ignore[union-attr]
        packed, _ = self._core.pack_image_features([values], [size], strategy, image_newline=newline)
        found: torch.Tensor = packed[0]
        return found
