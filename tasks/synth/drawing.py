"""Draws glyphs, shapes and backgrounds with integer arithmetic, so that a seed gives the same pixels on every machine.

Nothing here depends on a font file, a drawing library or a random generator whose stream may change: glyphs are a
5 x 7 bitmap font of our own, shapes are inequalities on an exact grid, and photographs are decoded from lossless files.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Alpha = npt.NDArray[np.int32]

SIZE = 96
"""Side of a picture in pixels."""
PATCH = 8
"""Side of a patch in pixels: letters and small objects keep within one, so that one token holds them."""
GRID = SIZE // PATCH

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring", "moon", "hourglass")
COLOURS = {
    "red": (214, 38, 44), "orange": (247, 138, 26), "yellow": (243, 222, 44), "green": (42, 160, 60),
    "cyan": (60, 208, 222), "blue": (44, 76, 220), "purple": (142, 48, 186), "white": (244, 244, 244),
}  # fmt: skip
TEXTURES = ("plain", "striped", "dotted")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_GLYPHS = {
    "A": "0E11111F111111", "B": "1E11111E11111E", "C": "0E11101010110E", "D": "1E11111111111E", "E": "1F10101E10101F",
    "F": "1F10101E101010", "G": "0E11101711110E", "H": "1111111F111111", "I": "0E04040404040E", "J": "0702020202120C",
    "K": "11121418141211", "L": "1010101010101F", "M": "111B1515111111", "N": "11191915131311", "O": "0E11111111110E",
    "P": "1E11111E101010", "Q": "0E11111115120D", "R": "1E11111E141211", "S": "0F10100E01011E", "T": "1F040404040404",
    "U": "1111111111110E", "V": "11111111110A04", "W": "1111111515150A", "X": "11110A040A1111", "Y": "11110A04040404",
    "Z": "1F01020408101F",
}  # fmt: skip
"""Seven rows of five pixels each, two hexadecimal digits a row, the leftmost pixel the highest bit."""


@cache
def glyph(letter: str) -> Alpha:
    """[7, 5] a capital letter, 256 where there is ink."""
    rows = bytes.fromhex(_GLYPHS[letter])
    bits = [[(row >> (4 - column)) & 1 for column in range(5)] for row in rows]
    return np.array(bits, np.int32) * 256


@cache
def shape_alpha(shape: str, size: int) -> Alpha:
    """[size, size] coverage of a shape, 0 to 256, by counting 8 x 8 points in every pixel."""
    steps = 8 * size
    axis = (2 * np.arange(steps, dtype=np.int64) + 1) - steps  # exact: odd integers from -(steps - 1) to steps - 1
    y, x = axis[:, None], axis[None, :]
    full = steps * steps
    radius = x * x + y * y
    inside = {
        "circle": radius <= full,
        "square": (np.abs(x) * 8 <= 7 * steps) & (np.abs(y) * 8 <= 7 * steps),
        "triangle": 2 * np.abs(x) <= y + steps,
        "diamond": np.abs(x) + np.abs(y) <= steps,
        "cross": (np.abs(x) * 3 <= steps) | (np.abs(y) * 3 <= steps),
        "ring": (radius <= full) & (radius * 3 >= full),
        "moon": (radius <= full) & ((2 * x - steps) ** 2 + 4 * y * y >= 2 * full),
        "hourglass": np.abs(x) <= np.abs(y) + steps // 8,
    }[shape]
    counted = inside.reshape(size, 8, size, 8).sum((1, 3), dtype=np.int32)
    scaled: Alpha = counted * 4
    return scaled


@cache
def texture_shade(texture: str, size: int) -> Alpha:
    """[size, size] brightness factors of 256 that a texture multiplies a colour with."""
    y, x = np.mgrid[:size, :size]
    dark = {"plain": x < 0, "striped": (x + y) % 6 < 2, "dotted": (x % 5 < 2) & (y % 5 < 2)}[texture]
    return np.where(dark, 150, 256).astype(np.int32)


def paint(
    canvas: Alpha, alpha: Alpha, x: int, y: int, colour: tuple[int, int, int], shade: Alpha | None = None
) -> None:
    """Blend a colour into `canvas` [h, w, 3] under `alpha` [a, b] with its corner at (x, y); it must fit."""
    height, width = alpha.shape
    part = canvas[y : y + height, x : x + width]
    ink = np.array(colour, np.int32)
    wanted = ink if shade is None else (shade[..., None] * ink) >> 8
    part += ((wanted - part) * alpha[..., None]) >> 8


# ---------------------------------------------------------------------------------------------------------- backgrounds


@cache
def photographs() -> tuple[Pixels, ...]:
    """The training photographs that come with scikit-image, shrunk to a short side of 160 pixels or so, RGB.

    Which photographs are for training, and never shown by an evaluation task, stands in the committed
    `training_photographs.json`; only losslessly stored ones are listed there, because JPEG decoders differ.
    """
    from PIL import Image

    found = []
    for name in photograph_names():
        with Image.open(_photograph_folder() / name) as image:
            pixels = np.asarray(image.convert("RGB"))
        factor = max(1, min(pixels.shape[:2]) // 160)
        height, width = (side // factor * factor for side in pixels.shape[:2])
        blocks = pixels[:height, :width].reshape(height // factor, factor, width // factor, factor, 3)
        found.append((blocks.sum((1, 3), dtype=np.int64) // (factor * factor)).astype(np.uint8))
    return tuple(found)


@cache
def photograph_names() -> tuple[str, ...]:
    """File names of the training photographs in scikit-image's data folder."""
    names = json.loads(Path(__file__).with_name("training_photographs.json").read_text(encoding="utf-8"))
    return tuple(str(name) for name in names)


@cache
def photograph_digest() -> str:
    """Digest of the photographs' files: part of every sample's fingerprint."""
    digest = hashlib.sha256()
    for name in photograph_names():
        digest.update((_photograph_folder() / name).read_bytes())
    return digest.hexdigest()


def _photograph_folder() -> Path:
    spec = importlib.util.find_spec("skimage")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "data"


def background(rng: np.random.RandomState) -> Alpha:
    """[SIZE, SIZE, 3] a photograph's crop, a smooth blotchy surface or a weave, of muted contrast."""
    kind = rng.randint(3)
    if kind == 0:
        photos = photographs()
        photo = photos[rng.randint(len(photos))]
        top, left = (rng.randint(side - SIZE + 1) for side in photo.shape[:2])
        crop = photo[top : top + SIZE, left : left + SIZE].astype(np.int32)
        if rng.randint(2):
            crop = crop[:, ::-1]
        muted: Alpha = crop * 5 // 8 + rng.randint(16, 64)
        return muted
    tint = (rng.randint(60, 180) + rng.randint(-28, 29, 3)).astype(np.int32)
    if kind == 1:
        cells = rng.randint(-36, 37, (7, 7, 3)).astype(np.int32)
        blotches: Alpha = np.clip(tint + _smooth(cells), 0, 255)
        return blotches
    y, x = np.ogrid[:SIZE, :SIZE]
    period, slant, depth = 4 + rng.randint(12), rng.randint(-2, 3), 10 + rng.randint(24)
    weave = ((x + slant * y) // period + (y // period) * rng.randint(2)) % 2
    grain = rng.randint(-8, 9, (SIZE, SIZE)).astype(np.int32)
    woven: Alpha = np.clip(tint + (weave * depth + grain)[..., None], 0, 255)
    return woven


def _smooth(cells: Alpha) -> Alpha:
    """[7, 7, 3] corner values to [SIZE, SIZE, 3], bilinear in sixteenths."""
    at, part = np.divmod(np.arange(SIZE), 16)
    part = part.astype(np.int32)
    rows = cells[at] * (16 - part)[:, None, None] + cells[at + 1] * part[:, None, None]
    both = rows[:, at] * (16 - part)[None, :, None] + rows[:, at + 1] * part[None, :, None]
    smooth: Alpha = both >> 8
    return smooth
