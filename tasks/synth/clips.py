"""Clips: a still background, two objects that move, change, come and go, and a word that shows for a while."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from . import drawing
from .drawing import COLOURS, GRID, PATCH, SHAPES, Alpha, Pixels
from .questions import Question
from .scenes import Box, Split, Thing, Word, held_out, jittered, place_thing, place_word, seed_of

FAMILIES = ("direction", "order", "repetition", "change", "reading")
CHANCE = {"direction": 1 / 4, "order": 1 / 2, "repetition": 1 / 4, "change": 1 / 8, "reading": 0.0}
"""What guessing among a family's possible answers gets right."""
TEMPLATES = (
    "Which way does the move?", "Which appears first, the or the ?", "How often does the flash?",
    "What colour does the become?", "What word appears?",
)  # fmt: skip
WAYS = ("left", "right", "up", "down")
LANE = 7
"""Patches that a moving object's way is long."""


@dataclass(frozen=True)
class Actor:
    """An object over time: what is to be seen of it in every frame, None where it is not there."""

    frames: tuple[Thing | None, ...]

    def boxes(self, frames: list[int]) -> tuple[tuple[int, Box], ...]:
        """(frame, box) wherever it shows in these frames."""
        shown = ((f, self.frames[f]) for f in frames)
        return tuple((f, thing.box) for f, thing in shown if thing is not None)


@dataclass(frozen=True)
class Clip:
    """A clip's recipe: objects, the word and the frames in which the word shows, and what can be asked."""

    seed: int
    split: Split
    actors: tuple[Actor, ...]
    word: Word
    word_frames: tuple[int, ...]
    questions: tuple[Question, ...]

    def draw(self, frame: int) -> Pixels:
        """[SIZE, SIZE, 3] one frame."""
        canvas = drawing.background(np.random.RandomState(self.seed))
        for actor in self.actors:
            thing = actor.frames[frame]
            if thing is not None:
                thing.paint(canvas)
        if frame in self.word_frames:
            self.word.paint(canvas)
        return np.clip(canvas, 0, 255).astype(np.uint8)


def clip(index: int, split: Split, frames: int = 8) -> Clip:
    """The clip number `index` of a split: one thing moves, one changes or flashes, two appear, and a word shows.

    Raises:
        ValueError: the index lies outside the split's range of seeds, or fewer than 8 frames.
    """
    if frames < 8:
        raise ValueError(f"a clip has at least 8 frames, not {frames}")
    seed = seed_of(index, split)
    rng = np.random.RandomState(seed ^ 0xC11F)
    while True:
        made = _compose(rng, seed, split, frames)
        if made is not None:
            return made


def _compose(rng: np.random.RandomState, seed: int, split: Split, frames: int) -> Clip | None:
    """One attempt; None where something found no room."""
    colours = list(COLOURS)
    shapes = [SHAPES[i] for i in rng.permutation(len(SHAPES))][:4]
    spare = [colours[i] for i in rng.permutation(len(colours))]
    free = np.ones((GRID, GRID), np.int32)
    word = place_word(rng, split, free)
    start = rng.randint(frames - 2)
    inks = []
    for shape in shapes:
        inks.append(next((c for c in spare if split == "test" or not held_out(shape, c)), None))
        if inks[-1] is None:
            return None
        spare.remove(inks[-1])
    moved = _moving(rng, free, shapes[0], str(inks[0]), frames)
    scales = [("small", "medium")[rng.randint(2)] for _ in shapes[1:]]
    still = [place_thing(rng, free, s, str(i), scale) for s, i, scale in zip(shapes[1:], inks[1:], scales, strict=True)]
    if moved is None or still[0] is None or still[1] is None or still[2] is None:
        return None
    # in turns, so that both are asked equally often
    event = _flashing(rng, still[0], frames) if seed % 2 else _changing(rng, still[0], frames, split, spare)
    first, second, order = _appearing(rng, still[1], still[2], frames)
    shown = (start, start + 1)
    asked = (moved[1], event[1], order, _read(word, shown))
    shuffled = tuple(asked[i] for i in rng.permutation(len(asked)))
    return Clip(seed, split, (moved[0], event[0], first, second), word, shown, shuffled)


def _moving(
    rng: np.random.RandomState, free: Alpha, shape: str, colour: str, frames: int
) -> tuple[Actor, Question] | None:
    """A medium object that goes once through a lane of seven patches; None where there is no free lane."""
    across, back = bool(rng.randint(2)), bool(rng.randint(2))
    height, width = (2, LANE) if across else (LANE, 2)
    thing = place_thing(rng, np.ones((2, 2), np.int32), shape, colour, "medium")
    assert thing is not None
    for _ in range(20):
        row, column = rng.randint(GRID - height + 1), rng.randint(GRID - width + 1)
        if free[row : row + height, column : column + width].all():
            break
    else:
        return None
    free[row : row + height, column : column + width] = 0
    length = LANE * PATCH - thing.side
    path = [length * f // (frames - 1) for f in range(frames)]
    x, y = column * PATCH, row * PATCH
    places = [(x + step, y + thing.y) if across else (x + thing.x, y + step) for step in (path[::-1] if back else path)]
    actor = Actor(tuple(replace(thing, x=x, y=y) for x, y in places))
    way = {(True, False): "right", (True, True): "left", (False, False): "down", (False, True): "up"}[across, back]
    text = f"Which way does the {colour} {shape} move?"
    return actor, Question("direction", text, way, actor.boxes(list(range(frames))), thing.held_out)


def _flashing(rng: np.random.RandomState, thing: Thing, frames: int) -> tuple[Actor, Question]:
    """The object shows one to four times, for one frame each, with a gap between."""
    times = 1 + rng.randint(4)
    slots = rng.permutation(frames // 2)[:times]
    late = rng.randint(2)
    shown = {2 * int(slot) + late for slot in slots}
    actor = Actor(tuple(thing if f in shown else None for f in range(frames)))
    text = f"How often does the {thing.colour} {thing.shape} flash?"
    return actor, Question("repetition", text, str(times), actor.boxes(sorted(shown)), thing.held_out)


def _changing(
    rng: np.random.RandomState, thing: Thing, frames: int, split: Split, spare: list[str]
) -> tuple[Actor, Question]:
    """The object takes another colour half-way, one that no other object has."""
    fit = [c for c in spare if split == "test" or not held_out(thing.shape, c)] or [thing.colour]
    colour = fit[rng.randint(len(fit))]
    when = 2 + rng.randint(frames - 4)
    after = replace(thing, colour=colour, ink=jittered(rng, colour))
    actor = Actor(tuple(thing if f < when else after for f in range(frames)))
    text = f"What colour does the {thing.shape} become?"
    return actor, Question(
        "change", text, colour, actor.boxes(list(range(when, frames))), thing.held_out or after.held_out
    )


def _appearing(rng: np.random.RandomState, a: Thing, b: Thing, frames: int) -> tuple[Actor, Actor, Question]:
    """Two objects that come one after the other, at least two frames apart, and stay."""
    early = rng.randint(frames - 3)
    late = early + 2 + rng.randint(frames - early - 2)
    first, second = (a, b) if rng.randint(2) else (b, a)
    actors = {
        first: Actor(tuple(first if f >= early else None for f in range(frames))),
        second: Actor(tuple(second if f >= late else None for f in range(frames))),
    }
    text = f"Which appears first, the {a.colour} {a.shape} or the {b.colour} {b.shape}?"
    evidence = actors[first].boxes([early]) + actors[second].boxes([late])
    question = Question("order", text, first.colour, evidence, a.held_out or b.held_out)
    return actors[a], actors[b], question


def _read(word: Word, frames: tuple[int, ...]) -> Question:
    evidence = tuple((f, box) for f in frames for box in word.boxes)
    return Question("reading", "What word appears?", word.text, evidence)
