"""JPEG, the codec that everybody has."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, ClassVar

from ...harness.contracts import UserError
from ...harness.registry import tokenizer
from ..codec import Codec

if TYPE_CHECKING:
    from PIL.Image import Image


@tokenizer("jpeg", outputs="stream", libraries=("pillow",))
@dataclass(frozen=True)
class Jpeg(Codec):
    """Baseline JPEG by Pillow, at the highest quality (1 to 100) within the budget.

    Quality 1 spends about 0.1 to 0.2 bits per pixel on a photograph of 512 x 512 and far more on a small picture, whose
    headers alone take 600 bytes: such pictures are infeasible at low budgets.

    Attributes:
        subsampling: of the colour planes, `4:2:0`, `4:2:2` or `4:4:4`.
        optimize: Huffman tables fitted to the picture.
        progressive: several scans instead of one.
    """

    suffix: ClassVar[str] = ".jpg"
    subsampling: str = "4:2:0"
    optimize: bool = True
    progressive: bool = False

    def __post_init__(self) -> None:
        if self.subsampling not in ("4:2:0", "4:2:2", "4:4:4"):
            raise UserError(f"jpeg has no subsampling {self.subsampling!r}: write '4:2:0', '4:2:2' or '4:4:4'.")

    def settings(self, image: Image) -> range:
        return range(1, 101)

    def write(self, image: Image, setting: int) -> bytes:
        file = BytesIO()
        image.save(
            file,
            "JPEG",
            quality=setting,
            subsampling=self.subsampling,
            optimize=self.optimize,
            progressive=self.progressive,
        )
        return file.getvalue()
