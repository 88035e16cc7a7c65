"""What can be asked about a scene: a question, its answer, and the boxes without which it can't be answered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .drawing import PATCH
from .scenes import SMALL, Box, Scene, Thing, covered

FAMILIES = ("colour", "shape", "counting", "spatial", "small", "comparison", "reading")
CHANCE = {"colour": 1 / 8, "shape": 1 / 8, "counting": 1 / 4, "spatial": 1 / 4, "small": 1 / 8, "comparison": 1 / 2,
          "reading": 0.0}  # fmt: skip
"""What guessing among a family's possible answers gets right."""

TEMPLATES = (
    "What shape is the object?", "What colour is the ?", "How many are there?", "Where is the seen from the ?",
    "Which is larger, the or the ?", "What word is printed?",
)  # fmt: skip
"""The words of the questions, for a model's vocabulary."""
SIDES = ("left", "right", "above", "below")
PLURAL = {"cross": "crosses", "hourglass": "hourglasses"}


@dataclass(frozen=True)
class Question:
    """One question with its only right answer.

    Attributes:
        evidence: (picture, box) pairs that hold what the answer rests on. Of a still picture each one is needed; of a
            clip, one of the frames that show the same may do.
        held_out: True where it is about a pair of shape and colour that training never showed.
    """

    family: str
    text: str
    answer: str
    evidence: tuple[tuple[int, Box], ...]
    held_out: bool = False

    @property
    def hinges(self) -> bool:
        """True where a single piece of the evidence lies within one or two patches."""
        return any(len(covered([box])) <= 2 for _, box in self.evidence)


def plural(shape: str) -> str:
    """`circles`, `crosses`."""
    return PLURAL.get(shape, shape + "s")


def questions(scene: Scene) -> list[Question]:
    """Everything that is asked about a scene, in a fixed order that says nothing about the answers."""
    rng = np.random.RandomState(scene.seed ^ 0xA5C)
    found = [*_lookups(scene), _count(scene), *_pairs(scene, rng), _read(scene)]
    return [found[i] for i in rng.permutation(len(found))]


def choose(found: list[Question], families: tuple[str, ...]) -> list[Question]:
    """The first question of each of the families, where there is one."""
    first = {}
    for question in reversed(found):
        first[question.family] = question
    return [first[family] for family in families if family in first]


def _lookups(scene: Scene) -> Iterator[Question]:
    for thing in scene.things:
        alike = [t for t in scene.things if t.shape == thing.shape]
        size = "small " if thing.scale == SMALL else ""
        family = "small" if size else ""
        here = ((0, thing.box),)
        yield Question(
            family or "shape", f"What shape is the {size}{thing.colour} object?", thing.shape, here, thing.held_out
        )
        if len(alike) == 1 or (size and sum(t.scale == SMALL for t in alike) == 1):
            yield Question(
                family or "colour", f"What colour is the {size}{thing.shape}?", thing.colour, here, thing.held_out
            )


def _count(scene: Scene) -> Question:
    alike = [t for t in scene.things if t.shape == scene.counted]
    return Question(
        "counting", f"How many {plural(scene.counted)} are there?", str(len(alike)),
        tuple((0, t.box) for t in alike), any(t.held_out for t in alike),
    )  # fmt: skip


def _pairs(scene: Scene, rng: np.random.RandomState) -> Iterator[Question]:
    """Where one object lies as seen from another, and which of two is larger."""
    things = scene.things
    order = rng.permutation(len(things))
    for i in order:
        for j in order:
            if i == j:
                continue
            a, b = things[i], things[j]
            both = ((0, a.box), (0, b.box))
            new = a.held_out or b.held_out
            side = _side(a, b)
            if side is not None:
                text = f"Where is the {a.colour} {a.shape} seen from the {b.colour} {b.shape}?"
                yield Question("spatial", text, side, both, new)
            if i < j and a.scale != b.scale:
                larger = a if a.side > b.side else b
                one, other = (a, b) if rng.randint(2) else (b, a)
                text = f"Which is larger, the {one.colour} {one.shape} or the {other.colour} {other.shape}?"
                yield Question("comparison", text, larger.colour, both, new)


def _side(a: Thing, b: Thing) -> str | None:
    """left, right, above or below; None where the direction is not plain."""
    dx = (2 * a.x + a.side) - (2 * b.x + b.side)
    dy = (2 * a.y + a.side) - (2 * b.y + b.side)
    if max(abs(dx), abs(dy)) < 3 * PATCH or min(abs(dx), abs(dy)) * 2 > max(abs(dx), abs(dy)):
        return None
    if abs(dx) > abs(dy):
        return "right" if dx > 0 else "left"
    return "below" if dy > 0 else "above"


def _read(scene: Scene) -> Question:
    boxes = scene.word.boxes
    return Question("reading", "What word is printed?", scene.word.text, tuple((0, box) for box in boxes))
