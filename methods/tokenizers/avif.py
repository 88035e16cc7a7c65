"""AVIF, the key frame of AV1 as a picture format."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, ClassVar

from ...harness.contracts import UserError
from ...harness.registry import tokenizer
from ..codec import Codec

if TYPE_CHECKING:
    from PIL.Image import Image


@tokenizer("avif", outputs="stream", libraries=("pillow",))
@dataclass(frozen=True)
class Avif(Codec):
    """AVIF by Pillow (libaom), at the highest quality (0 to 100) within the budget.

    The encoder runs in one thread, so that a file does not depend on the machine.

    Attributes:
        speed: of the encoder, 0 (small files) to 10 (fast). Pillow's default, 6, makes files 2 to 12% smaller than 8
            on photographs of 512 x 400 and takes three times as long; 9 and 10 make them 2 to 13% larger than 8.
        subsampling: of the colour planes, `4:2:0`, `4:2:2` or `4:4:4`.
    """

    suffix: ClassVar[str] = ".avif"
    speed: int = 8
    subsampling: str = "4:2:0"

    def __post_init__(self) -> None:
        if self.speed not in range(11):
            raise UserError(
                f"avif has no speed {self.speed!r}: write a whole number from 0 (small files) to 10 (fast)."
            )
        if self.subsampling not in ("4:2:0", "4:2:2", "4:4:4"):
            raise UserError(f"avif has no subsampling {self.subsampling!r}: write '4:2:0', '4:2:2' or '4:4:4'.")

    def settings(self, image: Image) -> range:
        return range(101)

    def write(self, image: Image, setting: int) -> bytes:
        file = BytesIO()
        image.save(file, "AVIF", quality=setting, speed=self.speed, subsampling=self.subsampling, max_threads=1)
        return file.getvalue()
