"""The family `llava`: LlavaForConditionalGeneration with a CLIP or SigLIP tower and a projector in front of any LLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..contracts import ModelShape, Sample, UserError
from .abilities import FamilyInfo, reading_tower
from .base import VisionLanguageModel
from .data import Crop, Shown, Sight
from .encoder import Block
from .kernels import slides

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PretrainedConfig

_CLASS_TOKEN = {"clip_vision_model": True, "siglip_vision_model": False}
"""Towers that are served, and whether their first token is a class token."""


class Llava(VisionLanguageModel):
    """LLaVA-1.5 and its kin: one square crop per picture, every patch of one vision layer, a two-layer projector."""

    family = "llava"
    architecture = "LlavaForConditionalGeneration"

    @classmethod
    def describe(cls, config: PretrainedConfig) -> tuple[ModelShape, FamilyInfo]:
        vision, text = config.vision_config, config.text_config
        if vision.model_type not in _CLASS_TOKEN:
            served = " and ".join(_CLASS_TOKEN)
            raise UserError(
                f"The family {cls.family} serves the towers {served}, and this model has {vision.model_type}."
            )
        class_token = _CLASS_TOKEN[vision.model_type]
        if config.vision_feature_select_strategy != ("default" if class_token else "full"):
            raise UserError(
                f"The family {cls.family} hands all patches and no more to the LLM, but vision_feature_select_strategy "
                f"is {config.vision_feature_select_strategy!r} for a {vision.model_type}."
            )
        side = vision.image_size // vision.patch_size
        chosen = config.vision_feature_layer
        depth = vision.num_hidden_layers
        if single := isinstance(chosen, int):
            last = chosen if chosen >= 0 else depth + 1 + chosen
        else:
            last = max(layer if layer >= 0 else depth + 1 + layer for layer in chosen)
        shape = ModelShape(
            family=cls.family, tokens=side * side, grid=(side, side), vision_layers=depth,
            llm_layers=text.num_hidden_layers, class_token=class_token, feature_layers=last,
        )  # fmt: skip
        # Features of several layers cannot be joined once one of them has merged, nor does CLIP's projection take them.
        info = reading_tower(
            cls.family, class_token=class_token, clip=vision.model_type == "clip_vision_model" and single,
            merging=single, llm=not slides(text),
        )  # fmt: skip
        return shape, info

    def __init__(self, model: nn.Module, processor: object, shape: ModelShape, info: FamilyInfo, revision: str) -> None:
        super().__init__(model, processor, shape, info, revision)
        self._patch = int(model.config.vision_config.patch_size)  # type: ignore[union-attr,arg-type]
        self._complete()
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def _complete(self) -> None:
        """Older checkpoints leave these out; they follow from the model, and placeholders are counted by them."""
        processor: Any = self.processor
        processor.patch_size = self._patch
        processor.vision_feature_select_strategy = self.model.config.vision_feature_select_strategy  # type: ignore
        processor.num_additional_image_tokens = int(self.shape.class_token)

    def prompt(self, sample: Sample, images: int) -> str:
        if getattr(self.processor, "chat_template", None):
            return super().prompt(sample, images)
        pictures = "\n".join([self.image_token] * images)
        return f"USER: {pictures}\n{sample.question or ''} ASSISTANT:"

    def tokenise(self, prompts: list[str], pictures: list[Image]) -> tuple[torch.Tensor, torch.Tensor, list[Shown]]:
        inputs: Mapping[str, torch.Tensor] = self.processor(  # type: ignore[operator]
            text=prompts, images=pictures, padding=True, add_special_tokens=not self._templated(prompts),
            return_tensors="pt",
        )  # fmt: skip
        shown = [
            Shown((Crop(pixels, self.shape.grid, picture, covered(picture.size, self._steps)),))
            for pixels, picture in zip(self.pixels(inputs), pictures, strict=True)
        ]
        return inputs["input_ids"], inputs["attention_mask"], shown

    def pixels(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """[pictures, 3, height, width] of what the processor returned."""
        return inputs["pixel_values"]

    def _templated(self, prompts: Sequence[str]) -> bool:
        """Has the chat template put the begin token in front already?"""
        begin = self.tokenizer.bos_token
        return bool(begin) and all(prompt.startswith(begin) for prompt in prompts)

    def shrink(self, crop: Crop, grid: tuple[int, int]) -> torch.Tensor:
        preprocess = self._steps
        share = grid[0] / self.shape.grid[0]
        sizes = {}
        for name in ("size", "crop_size"):
            if size := getattr(preprocess, name, None):
                sizes[name] = {k: round(v * share) for k, v in dict(size).items() if v is not None}
        pixels = self.pixels(preprocess([crop.picture], return_tensors="pt", **sizes))[0]
        wanted = (grid[0] * self._patch, grid[1] * self._patch)
        if tuple(pixels.shape[-2:]) != wanted:
            raise UserError(f"The processor made pictures of {tuple(pixels.shape[-2:])} where {wanted} were asked for.")
        return pixels

    @property
    def _steps(self) -> Any:
        """What the processor does to a picture."""
        return self.processor.image_processor  # type: ignore[attr-defined]

    def tower(self, crops: Sequence[Crop]) -> Any:
        """The vision tower that sees these crops."""
        return self.model.model.vision_tower  # type: ignore[union-attr]

    def see(self, crops: Sequence[Crop], *, resized: bool) -> Sight:
        extra: dict[str, object] = {"interpolate_pos_encoding": True} if resized else {}
        chosen = self.model.config.vision_feature_layer  # type: ignore[union-attr]
        layers = [chosen] if isinstance(chosen, int) else list(chosen)  # type: ignore[arg-type]
        kind: torch.dtype = self.model.dtype  # type: ignore[assignment]
        pixels = torch.stack([crop.pixels for crop in crops]).to(kind)
        out = self.tower(crops)(pixels, output_hidden_states=layers, return_dict=True, **extra)
        return Sight(list(torch.cat([out.hidden_states[layer] for layer in layers], -1)))

    def project(self, features: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.model.model.multi_modal_projector(features)  # type: ignore[operator,union-attr]
        return out

    @property
    def tower_norm(self) -> nn.Module:
        found = self.tower(()).post_layernorm
        assert isinstance(found, nn.Module)
        return found

    def blocks(self, crops: Sequence[Crop]) -> list[Block]:
        return [Block(x, x.self_attn, x.layer_norm2, x.mlp) for x in self.tower(crops).encoder.layers]


def covered(size: tuple[int, int], steps: Any) -> tuple[float, float, float, float]:
    """What lies under the grid of a picture of that width and height: every step of its processor is about the centre,
    rounding left out."""
    wide, high = (max(size), max(size)) if getattr(steps, "do_pad", False) else size
    if getattr(steps, "do_center_crop", False):
        sized = dict(steps.size) if steps.do_resize else {"width": wide, "height": high}
        edge = sized.get("shortest_edge")
        across = edge / min(wide, high) if edge else sized["width"] / wide
        down = edge / min(wide, high) if edge else sized["height"] / high
        wide, high = steps.crop_size["width"] / across, steps.crop_size["height"] / down
    x, y = size[0] / 2, size[1] / 2
    return x - wide / 2, y - high / 2, x + wide / 2, y + high / 2
