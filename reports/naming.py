"""Where names stand beside the points of a figure: on whichever side they lie on the least."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

WIDTH, HEIGHT = 345.0, 190.0
"""Of a figure's axes, about, in points."""
LETTER, LINE, MARK = 0.55, 1.1, 7.0
"""A letter's width and a line's height, in font sizes; the width of a mark in points."""
Box = tuple[float, float, float, float]


class Place(NamedTuple):
    """Offset of a name from its point, in points, and how it is aligned there."""

    x: float
    y: float
    ha: Literal["left", "right", "center"]
    va: Literal["bottom", "top", "center"]


PLACES = (
    Place(5, 1, "left", "bottom"), Place(-5, 1, "right", "bottom"), Place(5, -1, "left", "top"),
    Place(-5, -1, "right", "top"), Place(0, 5, "center", "bottom"), Place(0, -5, "center", "top"),
    Place(6, 0, "left", "center"), Place(-6, 0, "right", "center"),
)  # fmt: skip


def places(
    points: Sequence[tuple[float, float]], names: Sequence[str], size: float, others: Sequence[tuple[float, float]] = ()
) -> list[Place]:
    """A place for each name, one after another.

    Args:
        points: x, above 0 and on a logarithmic axis, and y.
        size: of the font, in points.
        others: points without a name.
    """
    marks = [*points, *others]
    across, up = _spread([math.log(x) for x, _ in marks], WIDTH), _spread([y for _, y in marks], HEIGHT)
    at = list(zip(across, up, strict=True))
    taken = [(x - MARK / 2, y - MARK / 2, x + MARK / 2, y + MARK / 2) for x, y in at]
    chosen = []
    for (x, y), name in zip(at[: len(names)], names, strict=True):
        boxes = [_box(x, y, place, LETTER * size * len(name), LINE * size) for place in PLACES]
        best = min(range(len(PLACES)), key=lambda i: (sum(_shared(boxes[i], t) for t in taken) + _outside(boxes[i]), i))
        taken.append(boxes[best])
        chosen.append(PLACES[best])
    return chosen


def _spread(values: Sequence[float], length: float) -> list[float]:
    low, high = min(values, default=0.0), max(values, default=0.0)
    return [length * (v - low) / (high - low) if high > low else length / 2 for v in values]


def _box(x: float, y: float, place: Place, width: float, height: float) -> Box:
    left = x + place.x - {"left": 0.0, "right": width, "center": width / 2}[place.ha]
    bottom = y + place.y - {"bottom": 0.0, "top": height, "center": height / 2}[place.va]
    return left, bottom, left + width, bottom + height


def _shared(one: Box, other: Box) -> float:
    """The area that two boxes share."""
    across, up = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    return max(across, 0.0) * max(up, 0.0)


def _outside(box: Box) -> float:
    """How far a box leaves the axes, weighed like an area."""
    return 10 * (
        max(-box[0] - 15, 0) + max(box[2] - WIDTH - 15, 0) + max(-box[1] - 4, 0) + max(box[3] - HEIGHT - 30, 0)
    )
