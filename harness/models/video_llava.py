"""The family `video_llava`: Video-LLaVA, which has a tower for pictures, and one for the frames of clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ..contracts import ModelShape
from .abilities import FamilyInfo, two_towers
from .clips import Clips, of_clip
from .data import SEPARATOR, Crop, Encoded, Frame, Shown

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class VideoLlava(Clips):
    """Video-LLaVA on pictures and clips: LLaVA with two towers of one kind and one projector.

    The projected class token of every frame enters the LLM in front of its patches. It shows no patch, is in no budget,
    and leaves with the first token that a method takes.
    """

    family = "video_llava"
    architecture = "VideoLlavaForConditionalGeneration"

    @classmethod
    def describe(cls, config: PretrainedConfig) -> tuple[ModelShape, FamilyInfo]:
        shape, info = super().describe(config)
        return replace(shape, frame=shape.grid), two_towers(info)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._core: Any = self.model.model

    def pixels(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        older = "pixel_values_images"
        return inputs[older] if older in inputs else super().pixels(inputs)

    def tower(self, crops: Sequence[Crop]) -> Any:
        return self._core.video_tower if of_clip(crops) else self._core.image_tower

    def placed(self, frames: list[Frame]) -> Shown:
        count = frames[0].tokens
        order = [torch.tensor([SEPARATOR, *[number] * count]) for number in range(len(frames))]
        return Shown(tuple(replace(frame, separators=1) for frame in frames), torch.cat(order))

    def separators(self, crops: Sequence[Crop], encoded: Encoded) -> Sequence[torch.Tensor]:
        return encoded.class_tokens

    def container(self, features: torch.Tensor) -> object:
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        return BaseModelOutputWithPooling(pooler_output=features[None])
