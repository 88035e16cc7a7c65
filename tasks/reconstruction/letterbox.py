"""TokBench's way of showing a picture to a tokenizer and of making what comes back into what is scored."""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Letterbox:
    """A black square with the picture in its middle, and back (`resize_rec.py` at github.com/wjf5203/TokBench).

    The long side becomes `side` pixels, both sides are rounded up, Lanczos both ways. With `as_jpeg` the restored
    picture goes through a JPEG file at Pillow's default quality: TokBench keeps the names of files, and so the formats.
    """

    side: int
    as_jpeg: bool = False

    def show(self, image: Image) -> Image:
        """The square, RGB."""
        from PIL import Image as Pillow

        size, corner = self._place(image)
        square = Pillow.new("RGB", (self.side, self.side))
        square.paste(image.resize(size, Pillow.Resampling.LANCZOS), corner)
        return square

    def restore(self, shown: Image, image: Image) -> Image:
        """What a tokenizer made of the square of `image`, at the size of `image`."""
        from PIL import Image as Pillow

        (width, height), (left, top) = self._place(image)
        part = shown.crop((left, top, left + width, top + height))
        whole = part.resize(image.size, Pillow.Resampling.LANCZOS)
        if not self.as_jpeg:
            return whole
        file = BytesIO()
        whole.save(file, "JPEG")
        with Pillow.open(file) as saved:
            return saved.convert("RGB")

    def _place(self, image: Image) -> tuple[tuple[int, int], tuple[int, int]]:
        """Size and upper left corner of the picture in the square; in TokBench's own arithmetic, which may round up a
        side that ought to come out whole."""
        ratio = min(self.side / image.width, self.side / image.height)
        width, height = math.ceil(image.width * ratio), math.ceil(image.height * ratio)
        return (width, height), ((self.side - width) // 2, (self.side - height) // 2)
