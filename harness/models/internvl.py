"""The family `internvl`: a picture is cut into square tiles, with a small whole of it behind them; a clip is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..contracts import Footage, ModelShape, UserError
from .abilities import FamilyInfo, joining_patches, kind, with_clips
from .base import VisionLanguageModel
from .calls import Grid
from .data import Crop, Frame, Shown, Sight
from .encoder import Block
from .kernels import slides
from .packing import bypassed, unit_means

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PretrainedConfig


class InternVL(VisionLanguageModel):
    """InternVL 2.5 to 3.5 as converted for transformers: pixel shuffle makes one visual token of 2 x 2 patches.

    A frame of a clip is a single tile. The tower has a class token, which no projector takes. `class_attention`,
    `received_attention` and `keys` are, per token, the means over its patches: ours, by the example of HiPrune's and
    DUET-VLM's authors for Qwen.
    """

    family = "internvl"
    architecture = "InternVLForConditionalGeneration"

    @classmethod
    def describe(cls, config: PretrainedConfig) -> tuple[ModelShape, FamilyInfo]:
        vision, text = config.vision_config, config.text_config
        if vision.model_type != "internvl_vision":
            raise UserError(
                f"The family internvl serves the tower internvl_vision, and this model has {vision.model_type}."
            )
        if config.vision_feature_select_strategy != "default" or config.vision_feature_layer != -1:
            raise UserError(
                "The family internvl hands all patches of the last layer and no more to the LLM, but "
                f"vision_feature_select_strategy is {config.vision_feature_select_strategy!r} and vision_feature_layer "
                f"{config.vision_feature_layer!r}."
            )
        grid = _token_grid(config)
        shape = ModelShape(
            family="internvl", tokens=grid[0] * grid[1], grid=grid, vision_layers=vision.num_hidden_layers,
            llm_layers=text.num_hidden_layers, class_token=False, crops=True, frame=grid,
        )  # fmt: skip
        tower = ("class_attention", "keys", "received_attention")
        info = joining_patches("internvl", *tower, llm=not slides(text))
        return shape, with_clips(info)

    def __init__(self, model: nn.Module, processor: object, shape: ModelShape, info: FamilyInfo, revision: str) -> None:
        super().__init__(model, processor, shape, info, revision)
        self._core: Any = model.model
        self._side = int(model.config.vision_config.image_size[0]) // shape.grid[0]  # type: ignore

    def tokenise(self, prompts: list[str], pictures: list[Image]) -> tuple[torch.Tensor, torch.Tensor, list[Shown]]:
        inputs: Mapping[str, torch.Tensor] = self.processor(  # type: ignore[operator]
            text=prompts, images=pictures, padding=True, return_tensors="pt"
        )
        pixels, boxes = inputs["pixel_values"], [self._boxes(picture.size) for picture in pictures]
        if len(pixels) != sum(map(len, boxes)):
            raise UserError(
                f"The processor makes {len(pixels)} tiles where its max_patches ask for {sum(map(len, boxes))}: "
                "its preprocessor_config.json does not crop as InternVL's does."
            )
        left = iter(pixels)
        shown = [
            Shown(tuple(Crop(next(left), self.shape.grid, picture, box, whole=box == own[-1]) for box in own))
            for picture, own in zip(pictures, boxes, strict=True)
        ]
        return inputs["input_ids"], inputs["attention_mask"], shown

    def _boxes(self, size: tuple[int, int]) -> list[tuple[float, float, float, float]]:
        """Of a picture of that width and height, what every tile shows, row by row, and last the whole of it."""
        from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

        steps = self.processor.image_processor  # type: ignore[attr-defined]
        columns, rows = get_optimal_tiled_canvas(
            (size[1], size[0]), (steps.size["height"], steps.size["width"]), steps.min_patches, steps.max_patches
        )
        wide, high = size[0] / columns, size[1] / rows
        tiles = [(x * wide, y * high, (x + 1) * wide, (y + 1) * high) for y in range(rows) for x in range(columns)]
        return [*(tiles if len(tiles) > 1 else ()), (0, 0, size[0], size[1])]

    def show_clip(self, prompt: str, frames: Sequence[Image], footage: Footage | None) -> tuple[torch.Tensor, Shown]:
        inputs: Mapping[str, torch.Tensor] = self.processor(  # type: ignore[operator]
            text=[prompt], videos=[list(frames)], do_sample_frames=False, return_tensors="pt"
        )
        shown = [
            Frame(pixels, self.shape.grid, picture, (0, 0, *picture.size), frames=((number, picture),))
            for number, (pixels, picture) in enumerate(zip(inputs["pixel_values"], frames, strict=True))
        ]
        return inputs["input_ids"][0], Shown(tuple(shown))

    def shrink(self, crop: Crop, grid: Grid) -> torch.Tensor:
        """A tile's pixels, which are normalised already: resizing is linear in them."""
        size = (grid[0] * self._side, grid[1] * self._side)
        if size[0] != size[1]:
            raise UserError(f"InternVL sees squares only, and was asked for a picture of {size[0]} x {size[1]} pixels.")
        pixels = crop.pixels[None].float()
        return torch.nn.functional.interpolate(pixels, size, mode="bicubic", antialias=True)[0].to(crop.pixels.dtype)

    def see(self, crops: Sequence[Crop], *, resized: bool) -> Sight:
        # Rows go through the projector later, as far as they are kept.
        with bypassed(self._core.multi_modal_projector, lambda features: features):
            out = self._core.get_image_features(torch.stack([crop.pixels for crop in crops]), return_dict=True)
        return Sight(list(out.pooler_output))

    def project(self, features: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self._core.multi_modal_projector(features)
        return out

    @contextmanager
    def listening(self, reads: frozenset[str], crops: Sequence[Crop]) -> Iterator[dict[str, Sequence[torch.Tensor]]]:
        with self.tower_signals(reads, crops, class_token=True) as found:
            yield found
        for name, rows in found.items():
            if kind(name) == "keys":
                flat = [keys[:, 1:].transpose(1, 2).flatten(0, 1) for keys in rows]  # without the class token's
                means = [self._by_token(own, crop.grid) for own, crop in zip(flat, crops, strict=True)]
                found[name] = [own.view(len(rows[0]), -1, own.shape[-1]).transpose(1, 2) for own in means]
            else:
                found[name] = [self._by_token(own, crop.grid) for own, crop in zip(rows, crops, strict=True)]

    def _by_token(self, rows: torch.Tensor, grid: Grid) -> torch.Tensor:
        """[heads, patches] of a tile, in raster order, to [heads, tokens]."""
        per = round((rows.shape[-1] / (grid[0] * grid[1])) ** 0.5)
        units = rows.view(-1, grid[0], per, grid[1], per).transpose(2, 3).flatten(1)
        return unit_means(units, per**2)

    def container(self, features: torch.Tensor) -> object:
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        return BaseModelOutputWithPooling(pooler_output=features[None])

    def blocks(self, crops: Sequence[Crop]) -> list[Block]:
        layers = self._core.vision_tower.encoder.layer
        return [Block(x, x.attention, x.layernorm_after, x.mlp) for x in layers]


def _token_grid(config: PretrainedConfig) -> Grid:
    vision = config.vision_config
    rows, columns = (size // patch for size, patch in zip(vision.image_size, vision.patch_size, strict=True))
    return round(rows * config.downsample_ratio), round(columns * config.downsample_ratio)
