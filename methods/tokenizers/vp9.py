"""VP9, the video codec of the web before AV1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ...harness.registry import tokenizer
from ..video_codec import VideoCodec


@tokenizer("vp9", outputs="stream", clips=True, libraries=("av",))
@dataclass(frozen=True)
class Vp9(VideoCodec):
    """VP9 by libvpx, at the lowest constant rate factor (0 to 63) within the budget.

    Kept as IVF, whose 32 bytes and 12 a frame are counted.

    Attributes:
        speed: of the encoder, 0 (small files) to 5 (fast).
    """

    name: ClassVar[str] = "vp9"
    encoder: ClassVar[str] = "libvpx-vp9"
    format: ClassVar[str] = "ivf"
    suffix: ClassVar[str] = ".ivf"
    factors: ClassVar[range] = range(64)
    speed: int = 4

    def options(self, factor: int) -> Mapping[str, str]:
        return {"crf": str(factor), "cpu-used": str(self.speed), "deadline": "good", "row-mt": "0"}
