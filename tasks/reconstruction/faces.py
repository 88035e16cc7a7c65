"""Faces: is it still the same person?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from ...harness.contracts import Region, Sample
from ...harness.registry import task
from .annotations import face
from .annotations import faces as faces_in
from .sources import digest, open_rgb, photograph

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[float, float, float, float]

FULL = {"t1": (1280, 886), "astronaut": (512, 512), "grace_hopper": (512, 600)}
"""Size of each whole picture in pixels."""
SHOWN = {"t1": ((512, 354),), "astronaut": ((512, 512), (256, 256)), "grace_hopper": ((512, 600), (256, 300))}
"""Sizes at which the whole pictures are shown."""
CLOSE, CLOSE_SIDE = (2.2, 4.0), 256
"""Faces are also shown alone: a square of so many times the box, in turns, at so many pixels a side."""


class Face(TypedDict):
    """An entry of `faces.json`."""

    box: list[float]
    points: list[list[float]]


@task(
    "faces",
    family="reconstruction",
    metrics=("face_distance", "face_similarity"),
    licence="see tasks/reconstruction/split.json",
)
def faces(folder: Path | None) -> list[Sample]:
    """Faces of insightface's, scikit-image's and matplotlib's pictures, each at two or three scales, or of a folder.

    The folder holds an `annotations.jsonl` with `box` or `boxes`, or TokBench's `annotations/face_meta.json` with key
    points.

    Raises:
        UserError: no such folder, no annotations in it, or malformed ones.
    """
    if folder is not None:
        return faces_in(folder)
    known: dict[str, list[Face]] = json.loads(
        (Path(__file__).parent / "faces.json").read_text(encoding="utf-8")
    )["faces"]  # fmt: skip
    samples = []
    for source, found in known.items():
        full = FULL[source]
        path = photograph(source).path
        data = path.read_bytes()
        whole = (0.0, 0.0, float(full[0]), float(full[1]))
        views = [(f"{source}-{size[0]}", whole, size, found) for size in SHOWN[source]]
        for number, one in enumerate(found):
            square = _around(one["box"], CLOSE[number % len(CLOSE)], full)
            views.append((f"{source}-face{number}", square, (CLOSE_SIDE, CLOSE_SIDE), [one]))
        for name, area, size, shown in views:
            regions = tuple(_region(f, area, size) for f in shown)
            fingerprint = digest(data, area, size, shown)
            samples.append(Sample(name, source, (partial(_view, path, area, size),), fingerprint, regions=regions))
    return samples


def _around(box: Sequence[float], times: float, full: tuple[int, int]) -> Box:
    """A square of so many times a box around it, moved into the picture."""
    side = round(min(times * max(box[2] - box[0], box[3] - box[1]), *full))
    left, top = (
        min(max(0, round((box[i] + box[i + 2] - side) / 2)), full[i] - side) for i in (0, 1)
    )  # fmt: skip
    return (left, top, left + side, top + side)


def _region(found: Face, area: Box, size: tuple[int, int]) -> Region:
    """A face of the whole picture, in pixels of a view of it."""
    across, down = size[0] / (area[2] - area[0]), size[1] / (area[3] - area[1])
    x0, y0, x1, y1 = found["box"]
    box = ((x0 - area[0]) * across, (y0 - area[1]) * down, (x1 - area[0]) * across, (y1 - area[1]) * down)
    points = tuple(((x - area[0]) * across, (y - area[1]) * down) for x, y in found["points"])
    return face(box, points, max(size))


def _view(path: Path, area: Box, size: tuple[int, int]) -> Image:
    from PIL.Image import Resampling

    return open_rgb(path).resize(size, Resampling.LANCZOS, box=area)
