"""Photographs: does the picture stay the same?"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...harness.contracts import Sample
from ...harness.registry import task
from .annotations import pictures
from .sources import digest, open_rgb, photograph

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[int, int, int, int]

PARTS: dict[str, Box] = {
    "astronaut": (64, 0, 448, 384),
    "camera": (80, 40, 464, 424),
    "chelsea": (33, 0, 417, 300),
    "coffee": (108, 8, 492, 392),
    "hubble": (500, 400, 884, 784),
    "moon": (64, 64, 448, 448),
    "motorcycle": (200, 58, 584, 442),
    "retina": (100, 500, 484, 884),
    "rocket": (128, 22, 512, 406),
}
"""The part of each of scikit-image's photographs that is shown, unscaled: left, top, right, bottom."""


@task(
    "photos",
    family="reconstruction",
    metrics=("psnr", "ssim", "ms_ssim"),
    licence="see tasks/reconstruction/split.json",
)
def photos(folder: Path | None) -> list[Sample]:
    """Photographs that come with scikit-image, or all pictures of a folder.

    Raises:
        UserError: no such folder, no picture in it, or a malformed `annotations.jsonl`.
    """
    if folder is not None:
        return pictures(folder)
    samples = []
    for source, box in PARTS.items():
        path = photograph(source).path
        samples.append(Sample(source, source, (partial(_part, path, box),), digest(path.read_bytes(), box)))
    return samples


def _part(path: Path, box: Box) -> Image:
    return open_rgb(path).crop(box)
