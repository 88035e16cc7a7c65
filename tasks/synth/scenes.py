"""Cluttered scenes: objects and one printed word over a background, the same for a seed on every machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from . import drawing
from .drawing import COLOURS, GRID, LETTERS, PATCH, SHAPES, TEXTURES, Alpha, Pixels

Split = Literal["train", "validation", "test"]
FIRST_SEED: dict[Split, int] = {"train": 0, "validation": 3_000_000_000, "test": 3_600_000_000}
"""Seeds of a split start here and end where the next one starts; the last ends at 2 ** 32."""

Box = tuple[int, int, int, int]
SMALL, MEDIUM, LARGE = "small", "medium", "large"
SMALL_SIDE = 7


@dataclass(frozen=True)
class Thing:
    """One object, its corner and side in pixels."""

    shape: str
    colour: str
    texture: str
    scale: str
    x: int
    y: int
    side: int
    ink: tuple[int, int, int]

    @property
    def box(self) -> Box:
        return self.x, self.y, self.x + self.side, self.y + self.side

    @property
    def held_out(self) -> bool:
        return held_out(self.shape, self.colour)

    def paint(self, canvas: Alpha) -> None:
        """Draw onto [SIZE, SIZE, 3]."""
        alpha, shade = drawing.shape_alpha(self.shape, self.side), drawing.texture_shade(self.texture, self.side)
        drawing.paint(canvas, alpha, self.x, self.y, self.ink, shade)


@dataclass(frozen=True)
class Word:
    """A printed word: one letter in each of consecutive patches of a row; (x, y) is the corner of the first letter."""

    text: str
    x: int
    y: int
    dark: bool

    @property
    def boxes(self) -> tuple[Box, ...]:
        """One box for each letter."""
        return tuple((self.x + i * PATCH, self.y, self.x + i * PATCH + 5, self.y + 7) for i in range(len(self.text)))

    def paint(self, canvas: Alpha) -> None:
        """Draw onto [SIZE, SIZE, 3]: a plate, then the letters."""
        plate, ink = ((24, 24, 28), (236, 236, 230)) if self.dark else ((232, 232, 226), (20, 20, 24))
        row = self.y // PATCH * PATCH
        left, right = self.x // PATCH * PATCH, self.x // PATCH * PATCH + len(self.text) * PATCH
        canvas[row : row + PATCH, left:right] = plate
        for index, letter in enumerate(self.text):
            drawing.paint(canvas, drawing.glyph(letter), self.x + index * PATCH, self.y, ink)


@dataclass(frozen=True)
class Scene:
    """A picture's recipe. `counted` is the shape whose number is balanced; all colours of `things` differ."""

    seed: int
    split: Split
    things: tuple[Thing, ...]
    word: Word
    counted: str

    def draw(self) -> Pixels:
        """[SIZE, SIZE, 3] the picture."""
        canvas = drawing.background(np.random.RandomState(self.seed))
        for thing in self.things:
            thing.paint(canvas)
        self.word.paint(canvas)
        return np.clip(canvas, 0, 255).astype(np.uint8)


def held_out(shape: str, colour: str) -> bool:
    """True for the eighth of all pairs of shape and colour that neither training nor validation ever shows."""
    return (SHAPES.index(shape) + 3 * list(COLOURS).index(colour)) % 8 == 0


def word_split(text: str) -> Split:
    """The split that a word belongs to: an eleventh of all words is for testing, another for validation."""
    place = sum((i + 2) * LETTERS.index(letter) for i, letter in enumerate(text)) % 11
    return "test" if place == 0 else "validation" if place == 1 else "train"


def scene(index: int, split: Split) -> Scene:
    """The scene number `index` of a split.

    Raises:
        ValueError: the index lies outside the split's range of seeds.
    """
    seed = seed_of(index, split)
    rng = np.random.RandomState(seed ^ 0x5EED)
    while True:
        made = _compose(rng, seed, split)
        if made is not None:
            return made


def seed_of(index: int, split: Split) -> int:
    """The seed of a scene or clip; ranges of the splits are disjoint.

    Raises:
        ValueError: the index lies outside the split's range.
    """
    starts = sorted(FIRST_SEED.values())
    first = FIRST_SEED[split]
    after = starts[starts.index(first) + 1] if first != starts[-1] else 2**32
    if not 0 <= index < after - first:
        raise ValueError(f"the split {split} has no scene {index}: it holds {after - first}")
    return first + index


def _compose(rng: np.random.RandomState, seed: int, split: Split) -> Scene | None:
    """One attempt; None where something found no room, so that crowded counts are not rarer than others."""
    shapes = [SHAPES[i] for i in rng.permutation(len(SHAPES))]
    colours = [list(COLOURS)[i] for i in rng.permutation(len(COLOURS))]
    counted = shapes[0]
    wanted = [counted] * (1 + rng.randint(4)) + shapes[1 : 4 + rng.randint(2)]
    free = np.ones((GRID, GRID), np.int32)
    word = place_word(rng, split, free)
    scales = [(SMALL, SMALL, MEDIUM, LARGE)[rng.randint(4)] for _ in wanted]
    placed: dict[int, Thing] = {}
    for i in sorted(range(len(wanted)), key=lambda i: (LARGE, MEDIUM, SMALL).index(scales[i])):
        colour = next((c for c in colours if split == "test" or not held_out(wanted[i], c)), None)
        thing = None if colour is None else place_thing(rng, free, wanted[i], colour, scales[i])
        if thing is None or colour is None:
            return None
        colours.remove(colour)
        placed[i] = thing
    return Scene(seed, split, tuple(placed[i] for i in sorted(placed)), word, counted)


def place_thing(rng: np.random.RandomState, free: Alpha, shape: str, colour: str, scale: str) -> Thing | None:
    """An object where `free` [rows, columns] has room, which it then takes; None where there is no room."""
    if scale == SMALL:
        side, cells = SMALL_SIDE, 1
    else:
        side = 12 + rng.randint(4) if scale == MEDIUM else 21 + rng.randint(6)
        cells = 2 if scale == MEDIUM else 4
    slack = cells * PATCH - side
    dx, dy = rng.randint(slack + 1), rng.randint(slack + 1)
    texture = "plain" if scale == SMALL else TEXTURES[rng.randint(len(TEXTURES))]
    ink = jittered(rng, colour)
    for _ in range(20):
        column, row = rng.randint(free.shape[1] - cells + 1), rng.randint(free.shape[0] - cells + 1)
        if free[row : row + cells, column : column + cells].all():
            free[row : row + cells, column : column + cells] = 0
            return Thing(shape, colour, texture, scale, column * PATCH + dx, row * PATCH + dy, side, ink)
    return None


def jittered(rng: np.random.RandomState, colour: str) -> tuple[int, int, int]:
    """A colour of that name, a little off."""
    red, green, blue = (max(0, min(255, channel + rng.randint(-14, 15))) for channel in COLOURS[colour])
    return red, green, blue


def place_word(rng: np.random.RandomState, split: Split, free: Alpha) -> Word:
    """A word of 2 to 5 random letters that belongs to the split, in a free row of patches, which it then takes."""
    length = 2 + rng.randint(4)
    text = ""
    while not text or word_split(text) != split:
        text = "".join(LETTERS[i] for i in rng.randint(0, len(LETTERS), length))
    while True:
        row, column = rng.randint(GRID), rng.randint(GRID - length + 1)
        if free[row, column : column + length].all():
            break
    free[row, column : column + length] = 0
    return Word(text, column * PATCH + 1 + rng.randint(2), row * PATCH + rng.randint(2), bool(rng.randint(2)))


def covered(boxes: Iterable[Box]) -> set[tuple[int, int]]:
    """(row, column) of every patch that one of the boxes touches."""
    return {
        (row, column)
        for x0, y0, x1, y1 in boxes
        for row in range(y0 // PATCH, (y1 - 1) // PATCH + 1)
        for column in range(x0 // PATCH, (x1 - 1) // PATCH + 1)
    }
