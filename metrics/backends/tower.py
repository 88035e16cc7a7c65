"""The vision tower of toksweep-mini under torch-fidelity's interface: features without a download."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import interpolate
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from ...harness.models.embedded import embedded
from ...harness.models.loading import without_bars

SIDE = 96
"""Of the picture that the tower sees, in pixels: the whole one, squeezed."""


class Tower(FeatureExtractorBase):  # type: ignore[misc]
    """The mean over patches of what toksweep-mini's projector reads, 160 numbers of a picture.

    A small tower that learned from drawn scenes of 96 x 96 pixels: it sees layout and colour, and little of texture. A
    distance of its features says nothing about FID.
    """

    def __init__(self, name: str, features_list: list[str], **kwargs: object) -> None:
        from transformers import LlavaForConditionalGeneration

        super().__init__(name, features_list)
        with without_bars():
            whole: Any = LlavaForConditionalGeneration.from_pretrained(
                str(embedded()[name]), dtype=torch.float32, local_files_only=True
            )
        self.tower = whole.model.vision_tower
        self.layer = whole.config.vision_feature_layer
        self.requires_grad_(False)
        self.eval()

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("mean_patch",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "mean_patch"

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    @staticmethod
    def get_dummy_input_for_compile() -> torch.Tensor:
        return torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8)

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """[pictures, 3, height, width] uint8 to ([pictures, 160],)."""
        small = interpolate(pictures.float(), (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 255)
        states = self.tower(pixel_values=small / 127.5 - 1, output_hidden_states=True).hidden_states
        return (states[self.layer][:, 1:].mean(1),)
