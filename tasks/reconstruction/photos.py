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

PARTS: dict[str, tuple[Box, ...]] = {
    "astronaut": ((64, 0, 448, 384),),
    "camera": ((80, 40, 464, 424),),
    "chelsea": ((33, 0, 417, 300),),
    "coffee": ((108, 8, 492, 392),),
    "hubble": ((0, 0, 384, 384), (500, 400, 884, 784)),
    "moon": ((64, 64, 448, 448),),
    "motorcycle": ((0, 58, 370, 442), (370, 58, 740, 442)),
    "retina": ((100, 500, 484, 884), (600, 500, 984, 884)),
    "rocket": ((128, 22, 512, 406),),
}
"""The parts of scikit-image's photographs that are shown, unscaled: left, top, right, bottom."""


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
    for source, boxes in PARTS.items():
        path = photograph(source).path
        data = path.read_bytes()
        for box in boxes:
            name = f"{source}-{'-'.join(map(str, box))}" if len(boxes) > 1 else source
            samples.append(Sample(name, source, (partial(_part, path, box),), digest(data, box)))
    return samples


def _part(path: Path, box: Box) -> Image:
    return open_rgb(path).crop(box)
