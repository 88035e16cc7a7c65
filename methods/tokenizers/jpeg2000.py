"""JPEG 2000, the codec that reaches any rate: wavelets whose bits are cut off where the budget ends."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, ClassVar

from ...harness.registry import tokenizer
from ..codec import Codec

if TYPE_CHECKING:
    from PIL.Image import Image

STEPS = 64
"""Rates tried between a rate and its double: the file found is at most about 1% below the budget."""
LOWEST_RATE = 0.01
"""Bits per pixel of the lowest rate tried; OpenJPEG ignores rates that the headers alone exceed."""


@tokenizer("jpeg2000", outputs="stream", libraries=("pillow",))
@dataclass(frozen=True)
class Jpeg2000(Codec):
    """JPEG 2000 by Pillow (OpenJPEG): the 9/7 wavelet, one quality layer, colours apart, a code stream without boxes.

    The setting searched is the rate that OpenJPEG is asked for. Files are ready for any budget from about 200 bytes on,
    hence it is the codec to hold low-rate tokenizers against; at such rates little but colour is left.

    Attributes:
        reversible: the lossless 5/3 wavelet instead, whose files at the highest rate are the picture as it is.
    """

    suffix: ClassVar[str] = ".j2k"
    reversible: bool = False

    def settings(self, image: Image) -> range:
        return range(round(STEPS * 11.3))  # doublings up to 24 bits per pixel and more

    def write(self, image: Image, setting: int) -> bytes:
        rate = LOWEST_RATE * 2 ** (setting / STEPS)
        file = BytesIO()
        image.save(
            file,
            "JPEG2000",
            no_jp2=True,
            mct=1,
            comment="",
            irreversible=not self.reversible,
            quality_mode="rates",
            quality_layers=[max(1.0, 24 / rate)],
        )
        return file.getvalue()
