"""AV1, the video codec of the web."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ...harness.registry import tokenizer
from ..video_codec import VideoCodec


@tokenizer("av1", outputs="stream", clips=True, libraries=("av",))
@dataclass(frozen=True)
class Av1(VideoCodec):
    """AV1 by libaom, at the lowest constant rate factor (0 to 63) within the budget.

    Attributes:
        speed: of the encoder, 0 (small files) to 8 (fast).
    """

    name: ClassVar[str] = "av1"
    encoder: ClassVar[str] = "libaom-av1"
    format: ClassVar[str] = "obu"
    suffix: ClassVar[str] = ".obu"
    factors: ClassVar[range] = range(64)
    speed: int = 6

    def options(self, factor: int) -> Mapping[str, str]:
        return {"crf": str(factor), "cpu-used": str(self.speed), "row-mt": "0"}
