"""What the picture codecs share: the search for the best file within a budget, and plain pictures without metadata."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING, ClassVar

from ..harness.contracts import Budget, Codes, Memo, Refusal

if TYPE_CHECKING:
    from PIL.Image import Image

REACH = 2
"""Settings tried above the one that bisection found. File size is monotone in quality but for a few bytes: on 7
photographs and documents and 55 small pictures every setting at which bisection stopped too early lay within 2."""
LOWEST = 6
"""Settings tried for the smallest file where none fits: tiny AVIF files are smallest at quality 1 to 5, not 0."""


def plain(image: Image) -> Image:
    """The RGB pixels alone: no EXIF, colour profile, comment or resolution, which Pillow would write into the file."""
    from PIL import Image as Pillow

    rgb = image.convert("RGB")
    return Pillow.frombytes("RGB", rgb.size, rgb.tobytes())


def highest_within(size: Callable[[int], int], settings: range, limit: float) -> tuple[int, bool]:
    """The highest setting whose file has at most `limit` bits.

    Bisection, then the next `REACH` settings above, again after every find.

    Args:
        size: bits at a setting, growing with it but for small dents.

    Returns:
        The setting, and whether it keeps the limit; where none does, that of the smallest file among the lowest.
    """
    best, above = settings.start - 1, settings.stop
    while above - best > 1:
        middle = (best + above) // 2
        if size(middle) <= limit:
            best = middle
        else:
            above = middle
    while fitting := [s for s in range(best + 1, min(best + 1 + REACH, settings.stop)) if size(s) <= limit]:
        best = fitting[-1]
    if best >= settings.start:
        return best, True
    return min(settings[:LOWEST], key=size), False


class Codec(ABC):
    """A still-picture codec as a tokenizer; subclasses are frozen dataclasses whose fields are their settings.

    The budget is spent per picture: the highest setting whose file, headers included, has at most budget x width x
    height bits. Files are shared between budgets through the memo.
    """

    suffix: ClassVar[str]

    @abstractmethod
    def settings(self, image: Image) -> range:
        """The settings to search, lowest rate first."""

    @abstractmethod
    def write(self, image: Image, setting: int) -> bytes:
        """The file of a plain RGB picture at a setting."""

    def decode(self, codes: Codes) -> Image:
        """The RGB picture, of the size that was encoded."""
        from PIL import Image as Pillow

        with Pillow.open(BytesIO(codes.stream)) as opened:
            return opened.convert("RGB")

    def encode(self, image: Image, budget: Budget, memo: Memo) -> Codes:
        """The best file within `budget`, or the smallest one, marked infeasible.

        Raises:
            Refusal: a budget that does not count bits per pixel.
        """
        if budget.unit != "bpp":
            raise Refusal(f"budget {budget.text} counts tokens, and a codec spends bits: write 0.5bpp")
        source = memo.once("plain picture", lambda: plain(image))

        def file(setting: int) -> bytes:
            return memo.once((self, setting), lambda: self.write(source, setting))

        limit = budget.value * source.width * source.height
        setting, fits = highest_within(lambda s: 8 * len(file(s)), self.settings(source), limit)
        stream = file(setting)
        return Codes(stream, self.suffix, 8 * len(stream), infeasible=not fits, setting=setting)

    def repeat(self, image: Image, codes: Codes) -> Codes:
        """See `RateSearch`."""
        if codes.setting is None:
            raise ValueError("codes without the setting that encode() found cannot be repeated")
        stream = self.write(plain(image), codes.setting)
        return replace(codes, stream=stream, bits=8 * len(stream))
