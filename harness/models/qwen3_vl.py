"""The family `qwen3_vl`: as Qwen2.5-VL, without windows, and with features of three more layers of the tower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..contracts import ModelShape, UserError
from .abilities import FamilyInfo, interleaved
from .calls import Grid
from .data import Crop, Sight
from .qwen2_5_vl import Qwen2_5_VL

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class Qwen3_VL(Qwen2_5_VL):  # noqa: N801 - as transformers spells it
    """Qwen3-VL on pictures and clips: the merger makes one visual token of 2 x 2 patches.

    Two frames of a clip are one image, as in Qwen2.5-VL; in front of each the prompt says in words at which second it
    stands, so that its positions are those of a picture.

    Mergers of their own make deepstack features (arXiv 2406.04334) of three earlier layers of the tower, which the LLM
    adds to its visual tokens behind its first three layers. They run along: a cut keeps or merges them as it does the
    tokens, by the same weights, the ones of later layers included where it lies between those three.

    There is no class token. `received_attention` is, per token, the mean over its four patches of the tower's mean row,
    in every layer over the whole image, as HiPrune's authors do for Qwen. Positions are three numbers, which kept
    tokens keep, as in Qwen2.5-VL.
    """

    family = "qwen3_vl"
    architecture = "Qwen3VLForConditionalGeneration"

    @classmethod
    def describe(cls, config: PretrainedConfig) -> tuple[ModelShape, FamilyInfo]:
        lists, layers = len(config.vision_config.deepstack_visual_indexes), config.text_config.num_hidden_layers
        if lists >= layers:
            raise UserError(
                f"The family qwen3_vl adds deepstack features between LLM layers, and this model has {lists} lists of "
                f"them for {layers} layers."
            )
        shape, info = super().describe(config)
        rope = config.text_config.rope_parameters or {}
        return shape, interleaved(info) if rope.get("mrope_interleaved") else info

    def see(self, crops: Sequence[Crop], *, resized: bool) -> Sight:
        out = self._encoded(crops)
        return Sight(out.pooler_output, along=[torch.cat(own, -1) for own in zip(*out.deepstack_features, strict=True)])

    def container(self, features: torch.Tensor) -> object:
        from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

        # no list, since the model would add it at the slots of the whole prompt
        return BaseModelOutputWithDeepstackFeatures(pooler_output=[features], deepstack_features=[])

    def _raster(self, units: torch.Tensor, grids: Sequence[Grid]) -> torch.Tensor:
        return units
