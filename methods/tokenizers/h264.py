"""H.264, the video codec that everybody has."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ...harness.registry import tokenizer
from ..video_codec import VideoCodec


@tokenizer("h264", outputs="stream", clips=True, libraries=("av",))
@dataclass(frozen=True)
class H264(VideoCodec):
    """H.264 by x264, at the lowest constant rate factor (0 to 51) within the budget.

    x264 is held to SSE2, or to plain C elsewhere, which write the same file: its AVX-512 code reads memory that was
    never written, so that files differ from run to run (seen in core 164), and what it writes differs from SSE4 on.
    It would be faster otherwise. The note that x264 writes about itself, 650 bytes, is left out.

    Attributes:
        preset: x264's name of an effort, `ultrafast` to `veryslow`.
    """

    name: ClassVar[str] = "h264"
    encoder: ClassVar[str] = "libx264"
    format: ClassVar[str] = "h264"
    suffix: ClassVar[str] = ".h264"
    factors: ClassVar[range] = range(52)
    filter: ClassVar[str | None] = "filter_units=remove_types=6"
    preset: str = "medium"

    def options(self, factor: int) -> Mapping[str, str]:
        assembly = "sse2" if platform.machine().lower() in ("x86_64", "amd64") else "0"
        return {"crf": str(factor), "preset": self.preset, "x264-params": f"asm={assembly}:threads=1"}
