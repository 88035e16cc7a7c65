"""WebP, the key frame of VP8 as a picture format."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, ClassVar

from ...harness.contracts import UserError
from ...harness.registry import tokenizer
from ..codec import Codec

if TYPE_CHECKING:
    from PIL.Image import Image


@tokenizer("webp", outputs="stream", libraries=("pillow",))
@dataclass(frozen=True)
class WebP(Codec):
    """Lossy WebP by Pillow, at the highest quality (0 to 100) within the budget.

    Attributes:
        method: effort of the encoder, 0 (fast) to 6 (small files).
    """

    suffix: ClassVar[str] = ".webp"
    method: int = 4

    def __post_init__(self) -> None:
        if self.method not in range(7):
            raise UserError(f"webp has no method {self.method!r}: write a whole number from 0 (fast) to 6 (small).")

    def settings(self, image: Image) -> range:
        return range(101)

    def write(self, image: Image, setting: int) -> bytes:
        file = BytesIO()
        image.save(file, "WEBP", quality=setting, method=self.method)
        return file.getvalue()
