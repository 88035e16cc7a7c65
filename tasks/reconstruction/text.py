"""Words: can they still be read?"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...harness.contracts import Sample
from ...harness.registry import task
from .annotations import word, words
from .batches import told
from .sources import digest, installed, open_rgb, photograph

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

SIDE = 256
"""Width and height of a picture in pixels."""
SEED = 20250523
BACKGROUNDS = ("astronaut", "camera", "chelsea", "coffee", "motorcycle", "rocket")
PER_BACKGROUND = 2
SIZES = ((5.4, 7.2),) * 2 + ((8.0, 9.4),) * 2 + ((10.8, 14.0),) * 2
"""Pixels a character of a picture's words: TokBench's bins at 256 pixels are parted at 5.12, 7.68 and 10.24."""
LETTERS = "abcdefghkmnpqrstuvwxyzABCDEFGHKLMNPQRTUVWXYZ2346789"
"""Letters and digits without those that look like another: 0 O o, 1 I l i j J, 5 S."""
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSansMono", "STIXGeneralBol")
"""Of those that matplotlib ships."""
PLATE = 0.8
"""How much of the photograph a word's plate hides."""


@dataclass(frozen=True)
class Word:
    """A word as it is drawn: `origin` is the left end of its baseline, `box` its ink with a margin, half-open."""

    text: str
    font: str
    size: float
    origin: tuple[int, int]
    box: tuple[int, int, int, int]
    dark: bool


@task(
    "text",
    family="reconstruction",
    metrics=("t_acc", "t_ned", "t_acc_untold", "t_ned_untold"),
    licence="see tasks/reconstruction/split.json",
)
def text(folder: Path | None) -> list[Sample]:
    """Random words in matplotlib's fonts on scikit-image's photographs, or the words of a folder.

    The folder holds an `annotations.jsonl` with `instances`, or TokBench's `annotations/text_NAME.json`.

    Raises:
        UserError: no such folder, no annotations in it, or malformed ones.
    """
    if folder is not None:
        return words(folder)
    fonts = [installed(_font_file(name)).read_bytes() for name in FONTS]
    samples = []
    for source in BACKGROUNDS:
        path = photograph(source).path
        data = path.read_bytes()
        for number in range(PER_BACKGROUND):
            drawn = _layout(random.Random(f"{SEED} {source} {number}"))
            regions = tuple(word(w.text, w.box, SIDE) for w in drawn)
            loader = partial(_draw, path, number, drawn)
            fingerprint = digest(data, *fonts, SIDE, PLATE, drawn)
            samples.append(Sample(f"{source}-{number}", source, (loader,), fingerprint, regions=regions))
    return told(samples)


def _layout(rng: random.Random) -> list[Word]:
    """Words at free places; the largest first, so that all find one."""
    placed: list[Word] = []
    for low, high in sorted(SIZES, reverse=True):
        length = 4 + int(4 * rng.random())
        spelled = "".join(LETTERS[int(len(LETTERS) * rng.random())] for _ in range(length))
        name = FONTS[int(len(FONTS) * rng.random())]
        wanted = low + (high - low) * rng.random()
        dark = rng.random() < 0.5
        size = round(wanted * length / _font(name, 100.0).getlength(spelled) * 100, 1)
        ink = _font(name, size).getbbox(spelled, anchor="ls")
        margin = max(1, round(size / 12))
        left, top, right, bottom = (round(edge) for edge in ink)
        width, height = right - left + 2 * margin, bottom - top + 2 * margin
        while True:
            x, y = int(rng.random() * (SIDE - width)), int(rng.random() * (SIDE - height))
            box = (x, y, x + width, y + height)
            if not any(_touch(box, other.box) for other in placed):
                break
        placed.append(Word(spelled, name, size, (x + margin - left, y + margin - top), box, dark))
    return placed


def _touch(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    gap = 8
    return one[0] < other[2] + gap and other[0] < one[2] + gap and one[1] < other[3] + gap and other[1] < one[3] + gap


def _draw(path: Path, number: int, placed: Sequence[Word]) -> Image:
    """The photograph's first or last square, with the words on plates that let some of it through."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    photo = open_rgb(path)
    side = min(photo.size)
    left, top = ((0, 0), (photo.width - side, photo.height - side))[number % 2]
    square = (left, top, left + side, top + side)
    picture = photo.resize((SIDE, SIDE), Pillow.Resampling.LANCZOS, box=square)
    pen = ImageDraw.Draw(picture)
    for one in placed:
        plate, ink = ("white", "black") if one.dark else ("black", "white")
        under = picture.crop(one.box)
        picture.paste(Pillow.blend(under, Pillow.new("RGB", under.size, plate), PLATE), one.box)
        pen.text(one.origin, one.text, fill=ink, font=_font(one.font, one.size), anchor="ls")
    return picture


def _font_file(name: str) -> str:
    return f"matplotlib/mpl-data/fonts/ttf/{name}.ttf"


@cache
def _font(name: str, size: float) -> FreeTypeFont:
    """A font without ligatures or kerning by Raqm, which not every Pillow has."""
    from PIL import ImageFont

    return ImageFont.truetype(installed(_font_file(name)), size, layout_engine=ImageFont.Layout.BASIC)
