"""A smaller picture: the floor that every codec and tokenizer must beat."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, ClassVar

from ...harness.contracts import Codes
from ...harness.registry import tokenizer
from ..codec import Codec

if TYPE_CHECKING:
    from PIL.Image import Image

CHUNK = b"tkSz"
"""Private PNG chunk that holds the full width and height, two 32-bit numbers: 20 bytes, counted as any other."""


@tokenizer("lowres", outputs="stream", floor=True, libraries=("pillow",))
@dataclass(frozen=True)
class LowRes(Codec):
    """Shrink by area, store as PNG, enlarge by bicubic interpolation: the largest picture within the budget.

    The setting searched is the long side in pixels; the short side is rounded to keep the shape.

    Attributes:
        optimize: PNG filters and compression at their best.
    """

    suffix: ClassVar[str] = ".png"
    optimize: bool = True

    def settings(self, image: Image) -> range:
        return range(1, max(image.size) + 1)

    def write(self, image: Image, setting: int) -> bytes:
        from PIL.Image import Resampling
        from PIL.PngImagePlugin import PngInfo

        long = max(image.size)
        width, height = (max(1, round(side * setting / long)) for side in image.size)
        info = PngInfo()
        info.add(CHUNK, struct.pack(">II", *image.size))
        file = BytesIO()
        image.resize((width, height), Resampling.BOX).save(file, "PNG", optimize=self.optimize, pnginfo=info)
        return file.getvalue()

    def decode(self, codes: Codes) -> Image:
        from PIL import Image as Pillow
        from PIL.PngImagePlugin import PngImageFile

        with Pillow.open(BytesIO(codes.stream)) as opened:
            small = opened.convert("RGB")
            chunks = opened.private_chunks if isinstance(opened, PngImageFile) else []
        sizes = [struct.unpack(">II", chunk[1]) for chunk in chunks if chunk[0] == CHUNK]
        if len(sizes) != 1:
            raise ValueError("a lowres stream without its full size")
        return small if small.size == sizes[0] else small.resize(sizes[0], Pillow.Resampling.BICUBIC)
