"""How lmms-eval's wrapper of each of our families asks a model: prompts, longest answer, frames, size of pictures.

What a wrapper does is reproduced, not improved: full tokens must give the figure that lmms-eval gives. Read from
lmms-eval 0.7.3, `models/chat/`. Not reproduced: how Qwen's wrappers resize the frames of a clip and tell its time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Wrapper:
    """One of lmms-eval's models.

    Attributes:
        name: as `lmms-eval --model` takes it; tasks choose their prompt by it.
        max_new_tokens: where the task says nothing.
        frames: at most so many of a clip.
        even_frames: an even number of frames, at least two.
        pixels: limits of a picture's size that it sets in place of the checkpoint's.
        factor: sides of pictures are brought to multiples of it, by qwen-vl-utils, before the processor sees them.
        system: a system message of its own, in front of whatever a task says.
    """

    name: str
    max_new_tokens: int
    frames: int = 32
    even_frames: bool = False
    pixels: tuple[int, int] | None = None
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

    def frame_numbers(self, count: int) -> Sequence[int]:
        """Which frames of a clip of `count` are shown."""
        import numpy as np

        if not self.even_frames:  # a clip that is shorter repeats frames
            return [int(n) for n in np.linspace(0, count - 1, self.frames, dtype=int)]
        import torch

        shown = max(2, min(self.frames, count) // 2 * 2)
        return [int(n) for n in torch.linspace(0, count - 1, shown).round().long()]


_HELPFUL = "You are a helpful assistant."
_QWEN = (256 * 28 * 28, 1605632)
_QWEN3 = (4 * 32 * 32, 16384 * 32 * 32)
"""Those of qwen-vl-utils alone: the wrapper tells the processor to resize nothing."""
WRAPPERS = {
    "internvl": Wrapper("internvl_hf", 1024),
    "llava": Wrapper("llava_hf", 1024),
    "llava_next": Wrapper("llava_hf", 1024),
    "llava_onevision": Wrapper("llava_hf", 1024),
    "qwen2_5_vl": Wrapper("qwen2_5_vl", 128, even_frames=True, pixels=_QWEN, factor=28),
    "qwen3_vl": Wrapper("qwen3_vl", 128, even_frames=True, pixels=_QWEN3, factor=32, system=_HELPFUL),
}
"""By family of ours. A family without one is asked as by `huggingface`, lmms-eval's wrapper of any chat model."""
OTHERWISE = Wrapper("huggingface", 1024)


def wrapper_of(family: str) -> Wrapper:
    """The wrapper of a family."""
    return WRAPPERS.get(family, OTHERWISE)
