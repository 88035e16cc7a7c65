"""The family `qwen2_5_vl`: pictures at their own resolution, window attention in the tower, three rows of positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
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
from .taps import Seen, tap

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PretrainedConfig

NOMINAL = (24, 24)
"""Rows and columns of visual tokens that plans and costs are made for: 576, as in LLaVA-1.5."""
RATE = 2.0
"""Frames of a clip in a second, as the authors' own tools sample them (`FPS` of qwen-vl-utils, `fps` of Qwen3-VL's
processor), where a sample says nothing of time."""


class Qwen2_5_VL(VisionLanguageModel):  # noqa: N801 - as transformers spells it
    """Qwen2.5-VL on pictures and clips: the merger makes one visual token of 2 x 2 patches.

    The tower joins every two frames of a clip to one image, the last of an odd number with itself, and sees each of
    these by itself. In the prompt their positions are as far apart as they are in time: a second, at two frames a
    second, where a sample says nothing of it.

    There is no class token. `received_attention` is, per token, the mean over its four patches of the tower's mean row,
    in window layers of the rows of the same window, as HiPrune's authors do for Qwen. Positions are three numbers,
    which kept tokens keep, as in the authors' versions of HiPrune and DUET-VLM for Qwen.
    """

    family = "qwen2_5_vl"
    architecture = "Qwen2_5_VLForConditionalGeneration"

    @classmethod
    def describe(cls, config: PretrainedConfig) -> tuple[ModelShape, FamilyInfo]:
        text = config.text_config
        shape = ModelShape(
            family=cls.family, tokens=NOMINAL[0] * NOMINAL[1], grid=NOMINAL, varies=True, class_token=False,
            vision_layers=config.vision_config.depth, llm_layers=text.num_hidden_layers, frame=NOMINAL,
        )  # fmt: skip
        return shape, with_clips(joining_patches(cls.family, "keys", "received_attention", llm=not slides(text)))

    def __init__(self, model: nn.Module, processor: object, shape: ModelShape, info: FamilyInfo, revision: str) -> None:
        super().__init__(model, processor, shape, info, revision)
        self._core: Any = model.model
        self._merge = int(model.config.vision_config.spatial_merge_size)  # type: ignore[union-attr,arg-type]
        self._joins = int(model.config.vision_config.temporal_patch_size)  # type: ignore[union-attr,arg-type]

    def tokenise(self, prompts: list[str], pictures: list[Image]) -> tuple[torch.Tensor, torch.Tensor, list[Shown]]:
        inputs: Mapping[str, torch.Tensor] = self.processor(  # type: ignore[operator]
            text=prompts, images=pictures, padding=True, return_tensors="pt"
        )
        grids = inputs["image_grid_thw"]
        pixels = torch.split(inputs["pixel_values"], grids.prod(1).tolist())
        shown = [
            Shown((Crop(own, (high // self._merge, wide // self._merge), picture, (0, 0, *picture.size)),))
            for own, (_, high, wide), picture in zip(pixels, grids.tolist(), pictures, strict=True)
        ]
        return inputs["input_ids"], inputs["attention_mask"], shown

    def limit_pixels(self, least: int, most: int) -> None:
        self.processor.image_processor.size = {"shortest_edge": least, "longest_edge": most}  # type: ignore[attr-defined]

    def show_clip(self, prompt: str, frames: Sequence[Image], footage: Footage | None) -> tuple[torch.Tensor, Shown]:
        count = len(frames)
        taken = footage or Footage(tuple(range(count)), count, RATE)
        told = {"total_num_frames": taken.count, "fps": taken.rate, "frames_indices": list(taken.numbers)}
        inputs: Mapping[str, torch.Tensor] = self.processor(  # type: ignore[operator]
            text=[prompt], videos=[list(frames)], video_metadata=[told], do_sample_frames=False, return_tensors="pt",
            **({"do_resize": False} if taken.fitted else {}),
        )  # fmt: skip
        images, high, wide = inputs["video_grid_thw"][0].tolist()
        seconds = float(inputs["second_per_grid_ts"][0]) if "second_per_grid_ts" in inputs else 1.0
        numbered, grid = list(enumerate(frames)), (high // self._merge, wide // self._merge)
        joined = [tuple(numbered[start : start + self._joins]) for start in range(0, count, self._joins)]
        under = (0, 0, *frames[0].size)
        return inputs["input_ids"][0], Shown(
            tuple(
                Frame(pixels, grid, own[0][1], under, frames=own, seconds=seconds)
                for pixels, own in zip(inputs["pixel_values_videos"].chunk(images), joined, strict=True)
            )
        )

    def shrink(self, crop: Crop, grid: Grid) -> torch.Tensor:
        steps = self.processor.image_processor  # type: ignore[attr-defined]
        side = steps.patch_size * self._merge
        pictures = [picture for _, picture in crop.frames] if isinstance(crop, Frame) else [crop.picture]
        small = [p.convert("RGB").resize((grid[1] * side, grid[0] * side), steps.resample) for p in pictures]
        pixels: torch.Tensor
        if isinstance(crop, Frame):
            join = self.processor.video_processor  # type: ignore[attr-defined]
            pixels = join([small], do_resize=False, do_sample_frames=False, return_tensors="pt")["pixel_values_videos"]
        else:
            pixels = steps(small, do_resize=False, return_tensors="pt")["pixel_values"]
        return pixels

    def see(self, crops: Sequence[Crop], *, resized: bool) -> Sight:
        return Sight(self._encoded(crops).pooler_output)

    def _encoded(self, crops: Sequence[Crop]) -> Any:
        """The output of the model's own features function, with features that have not gone through the merger."""
        merger = self._core.visual.merger
        # The merger's rows go through it later, as far as they are kept; the tower puts them in order by itself.
        with bypassed(merger, lambda patches: patches.reshape(-1, merger.hidden_size)):
            return self._core.get_image_features(
                torch.cat([crop.pixels for crop in crops]), self._thw([crop.grid for crop in crops]), return_dict=True
            )

    def _thw(self, grids: Sequence[Grid]) -> torch.Tensor:
        sides = [(1, rows * self._merge, columns * self._merge) for rows, columns in grids]
        return torch.tensor(sides, device=self.device)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self._core.visual.merger(features.reshape(-1, features.shape[-1] // self._merge**2))
        return out

    def positions(self, ids: torch.Tensor, valid: torch.Tensor, crops: Sequence[Crop]) -> torch.Tensor:
        kinds, grids = (ids == self.placeholder).int(), self._thw([crop.grid for crop in crops])
        # a clip begins with its first frame, and all its images are of one grid
        starts = [number for number, crop in enumerate(crops) if isinstance(crop, Frame) and crop.frames[0][0] == 0]
        given: dict[str, Any] = {"image_grid_thw": grids}
        if starts:
            apart = torch.tensor([crop.seconds for crop in crops if isinstance(crop, Frame)])[starts]
            given = self._clips_at(starts, grids) | {"second_per_grid_ts": apart}
        position: torch.Tensor = self._core.get_rope_index(
            ids, kinds * (2 if starts else 1), attention_mask=valid.long(), **given
        )[0]
        return position

    def _clips_at(self, starts: Sequence[int], grids: torch.Tensor) -> dict[str, Any]:
        """Grids of clips that begin at some images."""
        clips = grids[list(starts)]
        ends = [*starts[1:], len(grids)]
        clips[:, 0] = torch.tensor(ends, device=clips.device) - torch.tensor(starts, device=clips.device)
        return {"video_grid_thw": clips}

    @contextmanager
    def listening(self, reads: frozenset[str], crops: Sequence[Crop]) -> Iterator[dict[str, Sequence[torch.Tensor]]]:
        names = [name for name in reads if kind(name) in ("keys", "received_attention") and "@" in name]
        caught: dict[str, list[Seen]] = {name: [] for name in names}
        found: dict[str, Sequence[torch.Tensor]] = {}
        if names and str(self.model.config._attn_implementation).startswith("flash"):  # type: ignore[union-attr]
            raise UserError(
                "Flash attention sees all windows and pictures of a Qwen tower at once, and this method reads them "
                "apart: add --attn sdpa."
            )
        with ExitStack() as stack:
            for name in names:
                attention = self._core.visual.blocks[int(name.partition("@")[2])].attn
                stack.enter_context(tap(attention, caught[name].append))
            yield found
        for name in names:
            read = self._keys if kind(name) == "keys" else self._received
            found[name] = read(caught[name], [crop.grid for crop in crops])

    def _keys(self, windows: Sequence[Seen], grids: Sequence[Grid]) -> list[torch.Tensor]:
        """[heads, tokens, d] of every image, as in `_received`."""
        keys = torch.cat([seen.key[0] for seen in windows], 1)
        units = self._raster(keys.view(len(keys), -1, self._merge**2, keys.shape[-1]).mean(2), grids)
        return list(torch.split(units, [rows * columns for rows, columns in grids], 1))

    def _received(self, windows: Sequence[Seen], grids: Sequence[Grid]) -> list[torch.Tensor]:
        """[heads, tokens] of every image, from the calls of one layer, one per window or image."""
        # a window's rows count by their number, so that the mean is one over all rows of an image
        rows = torch.cat([seen.mean_row(range(seen.length))[0] * seen.length for seen in windows], -1)
        units = self._raster(unit_means(rows, self._merge**2), grids)
        counts = [rows * columns for rows, columns in grids]
        return [own / (own.shape[-1] * self._merge**2) for own in torch.split(units, counts, -1)]

    def _raster(self, units: torch.Tensor, grids: Sequence[Grid]) -> torch.Tensor:
        """[heads, tokens, ...] of all images in the tower's order, which is that of windows, to raster order."""
        from transformers.vision_utils import get_vision_window_index

        vision = self._core.visual.config
        index, _ = get_vision_window_index(self._thw(grids), self._merge, vision.window_size, vision.patch_size)
        return units[:, torch.argsort(index)]

    def blocks(self, crops: Sequence[Crop]) -> list[Block]:
        return [Block(x, x.attn, x.norm2, x.mlp) for x in self._core.visual.blocks]
