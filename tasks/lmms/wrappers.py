"""How lmms-eval's wrapper of each of our families asks a model: prompts, longest answer, frames, size of pictures.

What a wrapper does is reproduced, not improved: full tokens must give the figure that lmms-eval gives. Read from
lmms-eval 0.7.3, `models/chat/`.

`llava_hf` shows no clip as a chat model: it hands the processor an empty list of pictures, where LLaVA-OneVision's of
transformers 5 fails (`list index out of range`), and would let it decode every frame. With `--force_simple` it shows 32
of them, as ours does, but by the tokenizer's chat template, where ours is the processor's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ...harness.contracts import picture_limits

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Wrapper:
    """One of lmms-eval's models.

    Attributes:
        name: as `lmms-eval --model` takes it; tasks choose their prompt by it.
        max_new_tokens: where the task says nothing.
        frames: at most so many of a clip.
        samples: which: from the first to the last (`ends`), an even number of them and at least two (`even`), or the
            middle of each of as many equal parts (`middles`).
        pixels: limits of a picture's size that it sets in place of the checkpoint's.
        frame_pixels: those of a clip's frames; None leaves their size to the processor.
        factor: sides of pictures are brought to multiples of it, by qwen-vl-utils, before the processor sees them.
        system: a system message of its own, in front of whatever a task says.
    """

    name: str
    max_new_tokens: int
    frames: int = 32
    samples: Literal["ends", "even", "middles"] = "ends"
    pixels: tuple[int, int] | None = None
    frame_pixels: tuple[int, int] | None = None
    factor: int | None = None
    system: str | None = None

    def protocol(self) -> str:
        """What makes two figures of different wrappers incomparable, in a few words."""
        return f"{self.name}, {self.frames} frames, {self.max_new_tokens} new tokens unless the task says"

    def sees(self, picture: Image) -> Image:
        """A picture as it reaches the processor."""
        if self.factor is None:
            return picture
        from qwen_vl_utils import fetch_image

        shown: Image = fetch_image({"image": picture}, image_patch_size=self.factor // 2)
        return shown

    def sees_clip(self, frames: Sequence[Image]) -> list[Image]:
        """Frames of one clip as they reach the processor.

        Qwen's are resized by qwen-vl-utils: each to `frame_pixels`, to no more than its 768 tokens a frame, and all of
        them together to its share of the context.
        """
        if self.frame_pixels is None:
            return list(frames)
        import numpy as np
        import torch
        from PIL import Image
        from qwen_vl_utils import vision_process as rules
        from torchvision.transforms import InterpolationMode, functional

        assert self.factor is not None
        least, most = self.frame_pixels
        token = self.factor**2
        share = rules.MODEL_SEQ_LEN * token * 0.9 / len(frames) * rules.FRAME_FACTOR
        most = min(most, max(min(rules.VIDEO_MAX_TOKEN_NUM * token, share), int(least * 1.05)))
        wide, high = frames[0].size
        size = rules.smart_resize(high, wide, self.factor, least, most)
        whole = torch.from_numpy(np.stack([np.asarray(frame) for frame in frames])).permute(0, 3, 1, 2)
        fitted = functional.resize(whole, list(size), InterpolationMode.BICUBIC, antialias=True)
        return [Image.fromarray(frame) for frame in fitted.permute(0, 2, 3, 1).numpy()]

    def frame_numbers(self, first: int, count: int) -> Sequence[int]:
        """Which frames are shown of `count` of them, from `first` on.

        A wrapper that wants as many as there are not (`internvl_hf`, `qwen3_vl`) fails there; ours are then fewer.
        """
        import numpy as np
        import torch

        last = first + count - 1
        if self.samples == "ends":  # a clip that is shorter repeats frames
            return [int(n) for n in np.linspace(first, last, self.frames, dtype=int)]
        if self.samples == "even":
            shown = max(2, min(self.frames, count) // 2 * 2)
            return [int(n) for n in torch.linspace(first, last, shown).round().long()]
        step = count / min(self.frames, count)
        return [first + int(n) for n in torch.arange(step / 2, count, step).int()]

    def limited(self, least: int | None, most: int | None) -> Wrapper:
        """The same with the user's limits of a picture's size in place of its own.

        Raises:
            UserError: limits that leave no size.
        """
        frames = self.frame_pixels and picture_limits(least, most, self.frame_pixels)
        return replace(self, pixels=picture_limits(least, most, self.pixels), frame_pixels=frames)


def part_of(count: int, rate: float, span: tuple[float | None, float | None]) -> tuple[int, int]:
    """Of `count` frames, `rate` a second, those of a span of seconds as qwen-vl-utils finds them: the first of them and
    how many there are. An end that is None is the clip's own.

    Raises:
        ValueError: there are none.
    """
    start, end = (None if at is None else min(max(0.0, at), count / rate) for at in span)
    first = 0 if start is None else math.ceil(start * rate)
    last = count - 1 if end is None else min(math.floor(end * rate), count - 1)
    if first > last:
        raise ValueError(f"no frame of the clip lies between {span[0]} and {span[1]} seconds")
    return first, last - first + 1


_HELPFUL = "You are a helpful assistant."
_QWEN = (256 * 28 * 28, 1605632)
_QWEN3 = (4 * 32 * 32, 16384 * 32 * 32)
"""Those of qwen-vl-utils alone: the wrapper tells the processor to resize nothing."""
WRAPPERS = {
    "internvl": Wrapper("internvl_hf", 1024, samples="middles"),
    "llava": Wrapper("llava_hf", 1024),
    "llava_next": Wrapper("llava_hf", 1024),
    "llava_onevision": Wrapper("llava_hf", 1024),
    "qwen2_5_vl": Wrapper("qwen2_5_vl", 128, samples="even", pixels=_QWEN, frame_pixels=_QWEN, factor=28),
    "qwen3_vl": Wrapper("qwen3_vl", 128, samples="even", pixels=_QWEN3, frame_pixels=_QWEN, factor=32, system=_HELPFUL),
}
"""By family of ours. A family without one is asked as by `huggingface`, lmms-eval's wrapper of any chat model."""
OTHERWISE = Wrapper("huggingface", 1024)


def wrapper_of(family: str) -> Wrapper:
    """The wrapper of a family."""
    return WRAPPERS.get(family, OTHERWISE)
