"""Training pictures of the tokenizers, drawn once from a seed and kept as bytes, so that a step costs no drawing.

Words in matplotlib's fonts, crops of the training photographs of `tasks/reconstruction/split.json`, leaves that hide
each other (a picture made only of edges and surfaces, with the statistics of photographs: there are too few of those),
and training scenes of `tasks/synth`. No evaluation photograph, and no word that the `text` task shows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .....tasks.reconstruction.sources import installed, open_rgb, photographs
from .....tasks.synth.scenes import scene

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

Pixels = npt.NDArray[np.uint8]

SIDE = 72
"""Of a picture of the pool in pixels; training cuts smaller tiles out of it, wherever they fall."""
SHARES = {"words": 0.45, "photographs": 0.2, "leaves": 0.25, "scenes": 0.1}
"""What a pool consists of."""
FIRST_SCENE = 2_700_000_000
"""Index of the first training scene that is shown; the stages of the vision-language model end before it."""
CANVAS = 240
"""Side of the picture that words are drawn on, which is then cut up."""
FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic",
)  # fmt: skip
SIGNS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def pool(size: int, seed: int) -> Iterator[Pixels]:
    """[SIDE, SIDE, 3] pictures, `size` of them, in a random order; equal arguments give equal pictures.

    Raises:
        UserError: a photograph of the training split or a font is missing.
    """
    counts = {kind: round(share * size) for kind, share in SHARES.items()}
    counts["words"] += size - sum(counts.values())
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    random.Random(f"{seed} order").shuffle(kinds)
    made = {kind: _endless(kind, seed) for kind in counts}
    for kind in kinds:
        yield next(made[kind])


def write(path: Path, size: int, seed: int, progress: Callable[[int], None] = lambda _: None) -> None:
    """Write a pool as an array [size, SIDE, SIDE, 3] of bytes in NumPy's format, whole or not at all."""
    part = path.with_suffix(".part")
    array = np.lib.format.open_memmap(part, "w+", np.uint8, (size, SIDE, SIDE, 3))
    for i, picture in enumerate(pool(size, seed)):
        array[i] = picture
        progress(i)
    array.flush()
    part.replace(path)


def _endless(kind: str, seed: int) -> Iterator[Pixels]:
    make: dict[str, Callable[[random.Random, int], Iterator[Pixels]]] = {
        "words": _words, "photographs": _crops, "leaves": _leaves, "scenes": _scenes,
    }  # fmt: skip
    number = 0
    while True:
        yield from make[kind](random.Random(f"{seed} {kind} {number}"), number)
        number += 1


# ---------------------------------------------------------------------------------------------------------- photographs


@cache
def _training() -> tuple[Image, ...]:
    """Training photographs; those in colour, of which there are few, several times."""
    opened = [(p.source, open_rgb(p.path)) for p in photographs("training")]
    times = {"china": 5, "flower": 4, "ihc": 2}
    return tuple(image for source, image in opened if min(image.size) >= 100 for _ in range(times.get(source, 1)))


def _crop(rng: random.Random, side: int) -> Image:
    """A square of a training photograph at some scale, turned, mirrored and tinted."""
    from PIL import Image as Pillow

    photo = rng.choice(_training())
    widest = min(photo.size) / side
    scale = min(widest, max(0.5, 2 ** rng.uniform(-1, 2.2)))
    cut = side * scale
    left, top = rng.uniform(0, photo.width - cut), rng.uniform(0, photo.height - cut)
    box = (left, top, left + cut, top + cut)
    image = photo.resize((side, side), Pillow.Resampling.LANCZOS if scale > 1 else Pillow.Resampling.BICUBIC, box=box)
    turn = rng.randrange(8)
    return image if turn == 7 else image.transpose(Pillow.Transpose(turn))


def _tinted(rng: random.Random, image: Image) -> Pixels:
    """Channels exchanged, and each channel's contrast and brightness changed a little; half of the time."""
    pixels = np.asarray(image)
    if rng.random() < 0.5:
        return pixels
    order = rng.sample(range(3), 3)
    contrast = rng.uniform(0.5, 1.25)
    shift = np.array([rng.uniform(-30, 30) for _ in range(3)])
    changed = 128 + (pixels[..., order].astype(np.float64) - 128) * contrast + shift
    made: Pixels = changed.clip(0, 255).astype(np.uint8)
    return made


def _crops(rng: random.Random, _: int) -> Iterator[Pixels]:
    yield _tinted(rng, _crop(rng, SIDE))


# --------------------------------------------------------------------------------------------------------------- leaves


def _surface(rng: random.Random, side: int) -> Pixels:
    """[side, side, 3] a colour, a colour that changes slowly, or a piece of a photograph."""
    kind = rng.random()
    if kind < 0.3:
        return _tinted(rng, _crop(rng, side))
    base = np.array([rng.uniform(0, 255) for _ in range(3)])
    if rng.random() < 0.4:
        base = base * 0.2 + base.mean() * 0.8
    if kind < 0.5:
        return np.broadcast_to(base.astype(np.uint8), (side, side, 3))
    y, x = np.mgrid[:side, :side] / side - 0.5
    way = np.array([[rng.uniform(-90, 90) for _ in range(3)] for _ in range(2)])
    slow = base + x[..., None] * way[0] + y[..., None] * way[1]
    if kind > 0.8:
        slow += np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(1, 14), (side, side, 1))
    made: Pixels = slow.clip(0, 255).astype(np.uint8)
    return made


def _leaves(rng: random.Random, _: int) -> Iterator[Pixels]:
    """Ellipses and polygons of all sizes, drawn at twice the size so that their edges are soft."""
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageFilter

    side = 2 * SIDE
    canvas = Pillow.fromarray(_surface(rng, SIDE)).resize((side, side))
    for _ in range(rng.randrange(4, 28)):
        radius = 6 / max(0.06, rng.random()) ** 0.9
        x, y = rng.uniform(0, side), rng.uniform(0, side)
        mask = Pillow.new("L", (side, side))
        pen = ImageDraw.Draw(mask)
        if rng.random() < 0.5:
            flat = radius * rng.uniform(0.4, 1)
            pen.ellipse((x - radius, y - flat, x + radius, y + flat), fill=255)
        else:
            turns = sorted(rng.uniform(0, 2 * np.pi) for _ in range(rng.randrange(3, 6)))
            corners = [(x + radius * float(np.cos(t)), y + radius * float(np.sin(t))) for t in turns]
            pen.polygon(corners, fill=255)
        canvas.paste(Pillow.fromarray(_surface(rng, SIDE)).resize((side, side)), (0, 0), mask)
    small = canvas.resize((SIDE, SIDE), Pillow.Resampling.BOX)
    if rng.random() < 0.3:
        small = small.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5)))
    yield np.asarray(small)


# ---------------------------------------------------------------------------------------------------------------- words


@cache
def _font(name: str, size: float) -> FreeTypeFont:
    from PIL import ImageFont

    path = installed(f"matplotlib/mpl-data/fonts/ttf/{name}.ttf")
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def _words(rng: random.Random, _: int) -> Iterator[Pixels]:
    """A crop of a photograph, or leaves, covered with words on plates that hide most of it; then the pieces of it."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    if rng.random() < 0.7:
        canvas = Pillow.fromarray(_tinted(rng, _crop(rng, CANVAS)))
    else:
        canvas = Pillow.fromarray(next(_leaves(rng, 0))).resize((CANVAS, CANVAS))
    pen = ImageDraw.Draw(canvas)
    for _ in range(26):
        spelled = "".join(rng.choice(SIGNS) for _ in range(rng.randrange(3, 9)))
        # half-pixel sizes, so that the fonts can be kept
        font = _font(rng.choice(FONTS), round(2 * rng.uniform(8.5, 26)) / 2)
        left, top, right, bottom = (round(edge) for edge in font.getbbox(spelled, anchor="ls"))
        margin = max(1, round(font.size / 12))
        width, height = right - left + 2 * margin, bottom - top + 2 * margin
        x, y = rng.randrange(-min(20, width // 2), CANVAS - 30), rng.randrange(-4, CANVAS - 10)
        plain = rng.random() < 0.7
        dark = rng.random() < 0.5
        plate, ink = ((255, 255, 255), (0, 0, 0)) if dark else ((0, 0, 0), (255, 255, 255))
        if not plain:
            plate, ink = (_colour(rng) for _ in range(2))
        box = (max(0, x), max(0, y), min(CANVAS, x + width), min(CANVAS, y + height))
        under = canvas.crop(box)
        opaque = 0.8 if rng.random() < 0.5 else rng.uniform(0, 1)
        canvas.paste(Pillow.blend(under, Pillow.new("RGB", under.size, plate), opaque), box)
        pen.text((x + margin - left, y + margin - top), spelled, fill=ink, font=font, anchor="ls")
    whole = np.asarray(canvas)
    for top in range(0, CANVAS - SIDE + 1, 56):
        for left in range(0, CANVAS - SIDE + 1, 56):
            yield whole[top : top + SIDE, left : left + SIDE]


def _colour(rng: random.Random) -> tuple[int, int, int]:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


def _scenes(rng: random.Random, number: int) -> Iterator[Pixels]:
    drawn = scene(FIRST_SCENE + number, "train").draw()
    top, left = (rng.randrange(drawn.shape[0] - SIDE + 1) for _ in range(2))
    yield drawn[top : top + SIDE, left : left + SIDE]
